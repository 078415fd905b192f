"""A web page, or viewers that speak nnInteractive's protocol, in front of one interactive session.

``serve`` is the command, ``access`` who may send requests, and ``worker`` the one thread that works with the session.
The page: ``app`` is its API, ``display`` how a volume is turned for the screen; the page itself is built from
``viewer/`` at the top of the repository into ``page/``. The protocol: ``remote`` answers its requests, ``requests``
reads what they say, ``wire`` their arrays, and ``lease`` is who has the session.
"""
