"""Import TensorFlow quickly and quietly."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any


def load_tensorflow() -> Any:
    """The module, imported without the lines that its native code writes to standard error at any log level.

    Garbage collection is off during the import, and later skips the objects that the import created: walking all of
    them several times, and once more at the exit of the process, takes nearly as long as the import.
    """
    gc.disable()
    try:
        with _silenced():
            import tensorflow
    finally:
        gc.freeze()
        gc.enable()
    return tensorflow


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Hold back the output to file descriptor 2 during the block; drop it, unless an exception ends the block."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
