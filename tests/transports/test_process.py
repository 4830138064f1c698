"""What every serving process does: it ends on a signal that may come at any moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
WAIT = 60.0

EVERY_LINE = """
import signal, sys, threading
from transports import process

FILES = (threading.__file__, process.__file__)

def interrupted(number, line):
    '''Wait, and send the signal just before the given line of the waiting code.'''
    stop = process.StopSignal()
    seen = 0

    def trace(frame, event, argument):
        nonlocal seen
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                signal.raise_signal(number)
        return trace

    sys.settrace(trace)
    ended = stop.wait(0.05)
    sys.settrace(None)
    return seen >= line, ended or stop.wait(0)

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    line = 1
    while (outcome := interrupted(number, line))[0]:
        assert outcome[1], f"{number.name} before line {line} was lost"
        line += 1
    print(line - 1)
"""


def test_a_signal_at_any_line_of_waiting_ends_it() -> None:
    """A handler that sets an event would block here for good: at some lines the main thread holds the event's lock."""
    done = subprocess.run([sys.executable, "-c", EVERY_LINE], cwd=ROOT, capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 0, done.stderr
    assert all(int(lines) > 3 for lines in done.stdout.split())


ENDS = """
import sys, threading
from transports.process import StopSignal
stop = StopSignal(until_eof=True)
print(threading.active_count(), stop.wait(0), flush=True)
print(stop.wait(), stop.wait(0))
"""


@pytest.mark.parametrize("end", ["input", "signal"])
def test_it_ends_with_its_standard_input_and_on_a_signal_without_a_thread(end: str) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", ENDS], cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline().split() == ["1", "False"]
        child.stdin.write("what is read is dropped\n")
        child.stdin.flush()
        child.terminate() if end == "signal" else child.stdin.close()
        assert child.stdout.readline().split() == ["True", "True"]
        assert child.wait(WAIT) == 0


def test_another_thread_may_set_it() -> None:
    code = """
import threading
from transports.process import StopSignal
stop = StopSignal()
threading.Thread(target=stop.set).start()
assert stop.wait(60) and stop.wait(0)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=WAIT)
