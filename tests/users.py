"""A second user of the same computer, for tests of what is shared."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest

NOBODY = 65534


@contextlib.contextmanager
def another_user():
    """Inside, root, whom no mode stops, is nobody; any other user stays, so modes are to bar all.

    Nothing can be imported inside that only root may read.
    """
    if not hasattr(os, "geteuid"):
        pytest.skip("no users on this platform")
    if os.geteuid():
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    try:
        try:
            os.setgroups([])
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
        except PermissionError:
            pytest.skip("root may not become another user here")
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


@contextlib.contextmanager
def public_folder():
    """An empty folder that every user can enter and read (pytest's are for one user only)."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
        shutil.rmtree(folder)
