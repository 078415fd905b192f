"""A web page, or a server for nnInteractive's protocol, in front of one interactive session.

``serve`` is the command, ``access`` decides who may send requests, and ``worker`` is the one thread that uses the
session. The page: ``app`` is its API, ``desk`` opens the cases of ``cases``, ``autosave`` keeps their sessions, and
``display`` turns volumes for the screen. The page itself is built from ``viewer/`` at the top of the repository into
``page/``. The protocol: ``remote`` answers its requests, ``requests`` reads their messages, ``wire`` their arrays, and
``lease`` gives the session to one client.
"""
