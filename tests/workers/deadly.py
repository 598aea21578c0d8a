"""
Runs Python code that ends by SIGKILL in place of a call of a function, with the processes that it has forked:

    deadly.py MODULE[:CLASS].FUNCTION NUMBER_OF_THE_CALL CODE [WORD ...]
"""

import os
import pkgutil
import signal
import sys

place, left, code, *sys.argv[1:] = sys.argv[1:]
owner, _, name = place.rpartition(".")
owner, left = pkgutil.resolve_name(owner), int(left)
original = getattr(owner, name)


def deadly(*args, **more):
    global left
    left -= 1
    return original(*args, **more) if left else os.killpg(0, signal.SIGKILL)


if os.getpgrp() != os.getpid():
    os.setpgid(0, 0)
setattr(owner, name, deadly)
exec(code)
