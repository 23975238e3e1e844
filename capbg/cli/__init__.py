"""The command line: ``capbg rehearse``, ``capbg check``, ``capbg unit``.

Each command is a file here that knows options and words, and nothing else; what it does stands in a folder:
``rehearsal/`` plays systemd to a command, ``units/`` reads and writes unit files. It needs the extra ``capbg[cli]``
(click, rich), which ``import capbg`` never loads.
"""
