"""A place to click: a local web page, or viewers that speak nnInteractive's protocol, in front of one session.

``desk`` is the one thread that works with the session, ``display`` how a volume is turned for the screen, ``access``
who may come in, ``app`` the page's API, ``remote`` nnInteractive's protocol, ``serve`` the command, and
``needs_extra`` says what to install. The page itself is built from ``viewer/`` at the top of the repository into
``page/``.
"""
