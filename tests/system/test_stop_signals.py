"""nstray.system.stop_signals and the entry point: a signal that asks to stop ends a command with a true exit code, whenever it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BEGIN = """
import os, signal, sys, time
from nstray.system import stop_signals as s
s.install()
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def wait(seconds=20):
    say("waiting")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)
"""
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


class Program:
    """A program that says what it does, line by line."""

    def __init__(self, text: str, *, before: str = "") -> None:
        self.process = subprocess.Popen(
            ["bash", "-c", f'{before}exec "$@"', "bash", sys.executable, "-c", BEGIN + text],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, line: str) -> None:
        assert self.process.stdout is not None
        while (found := self.process.stdout.readline().rstrip("\n")) != line:
            assert found, self.process.stderr.read() if self.process.stderr else None

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_raises_while_nothing_has_begun(number: signal.Signals) -> None:
    program = Program("try:\n    wait()\nexcept KeyboardInterrupt as e:\n    say(type(e).__name__)\n    sys.exit(4)")
    program.until("waiting")
    program.process.send_signal(number)
    assert program.end() == (4, "StopRequested\n", "")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_where_it_must_not_raise(number: signal.Signals) -> None:
    program = Program(
        "with s.deferred():\n    with s.deferred():\n        wait(0.5)\n    say('went on')\n    try:\n        s.check()\n"
        "    except KeyboardInterrupt:\n        say('checked')\nsys.exit(0)"
    )
    program.until("waiting")
    program.process.send_signal(number)
    code, out, err = program.end()
    assert (code, out) == (0, "went on\nchecked\n")
    assert f" event=stopping signal={number.name} hint=" in err  # what it waits for, and what a second one does
    assert "a second signal ends it at once; what is committed stays" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_calls_the_function_that_handles_it_now_or_later(number: signal.Signals) -> None:
    program = Program(
        "with s.deferred():\n    wait(0.5)\n    with s.handled_by(lambda n: say('first', n.name)):\n        pass\n"
        "    s._state.received = None\n    with s.handled_by(lambda n: say('then', n.name)):\n        wait(0.5)\n"
    )
    program.until("waiting")
    program.process.send_signal(number)
    program.until(f"first {number.name}")
    program.until("waiting")
    program.process.send_signal(number)
    code, out, err = program.end()
    assert (code, out) == (0, f"then {number.name}\n")
    assert err.count("\n") == err.count("event=stopping") == 1  # of the one that came before


def test_a_second_signal_ends_at_once() -> None:
    program = Program("with s.handled_by(lambda n: say('draining')):\n    wait()")
    program.until("waiting")
    program.process.terminate()
    program.until("draining")
    program.process.send_signal(signal.SIGINT)
    code, _, err = program.end()
    err = err.splitlines(keepends=True)[-1]  # after event=stopping
    assert time.strptime(err[:8], "%H:%M:%S")
    assert (code, err[8:]) == (4, ' event=killed reason=second_signal hint="run the same command again to resume"\n')


def test_a_second_hangup_is_the_same_hangup() -> None:
    program = Program("with s.handled_by(lambda n: say('draining')):\n    wait(1)\nsys.exit(4)")
    program.until("waiting")
    program.process.send_signal(signal.SIGHUP)
    program.until("draining")
    program.process.send_signal(signal.SIGHUP)
    assert program.end()[::2] == (4, "")


def test_an_end_at_once_does_its_last_act_first() -> None:
    program = Program("with s.last_act(lambda: say('last')), s.handled_by(lambda n: say('draining')):\n    wait()")
    program.until("waiting")
    program.process.terminate()
    program.until("draining")
    program.process.terminate()
    code, out, err = program.end()
    assert (code, out) == (4, "last\n")
    assert "event=killed reason=second_signal" in err


def test_a_stop_that_takes_too_long_does_its_last_act_too() -> None:
    program = Program("s.LIMIT = 0.3\nwith s.last_act(lambda: say('last')), s.deferred():\n    wait()")
    program.until("waiting")
    program.process.terminate()
    assert program.end()[:2] == (4, "last\n")


@pytest.mark.parametrize("act", ["time.sleep(60)", "1 / 0", "lock.acquire()"])
def test_a_last_act_that_hangs_or_fails_holds_up_no_end(act: str) -> None:
    """Also one that needs a lock which the interrupted line holds."""
    program = Program(
        "import threading\nlock = threading.Lock()\ns.LAST_ACT = 0.3\n"
        f"with s.last_act(lambda: {act}), s.handled_by(lambda n: say('draining')):\n    with lock:\n        wait()"
    )
    program.until("waiting")
    program.process.terminate()
    program.until("draining")
    program.process.terminate()
    code, _, err = program.end()
    assert code == 4
    assert "Traceback" not in err


def test_a_third_signal_waits_for_no_last_act() -> None:
    program = Program("s.LAST_ACT = 50\nwith s.last_act(lambda: (say('last'), time.sleep(60))), s.handled_by(lambda n: say('draining')):\n    wait()")
    program.until("waiting")
    program.process.terminate()
    program.until("draining")
    program.process.terminate()
    program.until("last")
    program.process.terminate()
    code, _, err = program.end()
    assert (code, err.count("event=killed")) == (4, 1)


def test_an_end_in_order_does_no_last_act() -> None:
    program = Program(
        "before = threading.active_count() if (threading := __import__('threading')) else 0\n"
        "with s.last_act(lambda: say('last')):\n    pass\n"
        "while threading.active_count() > before:\n    time.sleep(0.01)\n"
        "say('over')\ns.leave(3)"
    )
    assert program.end() == (3, "over\n", "")


def test_a_stop_that_takes_too_long_ends_at_once() -> None:
    program = Program("s.LIMIT = 0.3\nwith s.deferred():\n    wait()")
    program.until("waiting")
    program.process.terminate()
    code, _, err = program.end()
    err = err.splitlines(keepends=True)[-1]  # after event=stopping
    assert time.strptime(err[:8], "%H:%M:%S")
    assert (code, err[8:]) == (4, ' event=killed reason=still_not_ended seconds=0.3 hint="run the same command again to resume"\n')


def test_a_stop_that_is_held_up_in_c_ends_at_once_too() -> None:
    """The main thread runs no line of Python, and blocks the signal."""
    program = Program(
        "import ctypes\ns.LIMIT = 0.3\nsignal.pthread_sigmask(signal.SIG_BLOCK, s.SIGNALS)\nsay('waiting')\n"
        "until = time.monotonic() + 20\nwhile time.monotonic() < until:\n    ctypes.CDLL(None).sleep(20)"
    )
    program.until("waiting")
    program.process.terminate()
    code, _, err = program.end()
    err = err.splitlines(keepends=True)[-1]  # after event=stopping
    assert time.strptime(err[:8], "%H:%M:%S")
    assert (code, err[8:]) == (4, ' event=killed reason=still_not_ended seconds=0.3 hint="run the same command again to resume"\n')


def test_a_function_that_handles_a_signal_has_all_the_time_it_needs() -> None:
    program = Program("s.LIMIT = 0.3\nwith s.deferred():\n    with s.handled_by(lambda n: say('draining')):\n        wait(1.5)\n    sys.exit(4)")
    program.until("waiting")
    program.process.terminate()
    assert program.end() == (4, "draining\n", "")


def test_a_signal_whose_exception_was_lost_is_found_later() -> None:
    program = Program(
        "class Lost:\n    def __del__(self):\n        wait(1)\nLost()\n"
        "try:\n    s.check()\nexcept KeyboardInterrupt:\n    say('found')\n    sys.exit(4)"
    )
    program.until("waiting")
    program.process.terminate()
    assert program.end()[:2] == (4, "found\n")


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    program = Program("wait(0.5)\nsay('went on')", before="trap '' HUP; ")
    program.until("waiting")
    program.process.send_signal(signal.SIGHUP)
    assert program.end() == (0, "went on\n", "")


@pytest.mark.parametrize("number", SIGNALS)
def test_an_exit_code_that_is_known_stays(number: signal.Signals) -> None:
    program = Program("import atexit\natexit.register(wait, 0.5)\ns.ignore(3)\nsys.exit(3)")
    program.until("waiting")
    program.process.send_signal(number)
    assert program.end()[0] == 3


def test_an_end_that_is_held_up_ends_with_its_code() -> None:
    program = Program("import threading\nthreading.Thread(target=wait).start()\ns.LIMIT = 0.3\ns.ignore(3)\nsys.exit(3)")
    program.until("waiting")
    assert program.end()[::2] == (3, "")


def test_handlers_that_a_library_replaced_are_put_back() -> None:
    program = Program(
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(99))\nsignal.alarm(1)\n"
        "s.reinstall()\ntry:\n    wait()\nexcept KeyboardInterrupt:\n    sys.exit(4)"
    )
    program.until("waiting")
    program.process.terminate()
    assert program.end()[0] == 4


def test_another_program_keeps_its_handlers() -> None:
    text = "from nstray.system import stop_signals as s\nimport signal\nbefore = signal.getsignal(15), signal.getsignal(2)\n"
    text += "s.reinstall()\ns.ignore(0)\nassert before == (signal.getsignal(15), signal.getsignal(2)) and not s.installed()"
    subprocess.run([sys.executable, "-c", text], check=True, timeout=60)


@pytest.mark.parametrize("delay", [0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_that_is_stopped_while_it_starts(delay: float, number: signal.Signals, tmp_path: Path) -> None:
    """Imports, manifest check, weights: from the moment that nstray's own code runs the exit code is 0 or 4, and there is one line."""
    (tmp_path / "m.csv").write_text("content,style\na.png,b.png\n")
    started = tmp_path / "started"
    # As the script `nstray` begins, but it tells when.
    program = f"from nstray.system import stop_signals\nstop_signals.install()\nopen({str(started)!r}, 'w').close()\n"
    program += "from nstray.__main__ import main\nmain()"
    words = [sys.executable, "-c", program, "plan", "m.csv", "out", "--weights", "random"]
    process = subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    while not started.exists():
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip()) in [(4, "nstray: interrupted; run the same command again to resume"), (0, "")], err
    assert ("rows" in out) == (process.returncode == 0)
    assert {p.name for p in tmp_path.iterdir()} == {"m.csv", "started"}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_comes_in_a_destructor_is_not_lost(number: signal.Signals) -> None:
    """Python drops what a destructor or a callback of the garbage collector raises."""
    program = Program(
        "class Slow:\n    def __del__(self):\n        wait()\n"
        "try:\n    slow = Slow()\n    del slow\n    say('went on')\n    wait()\n"
        "except KeyboardInterrupt as e:\n    say(type(e).__name__)\n    sys.exit(4)"
    )
    program.until("waiting")
    program.process.send_signal(number)
    code, out, err = program.end()
    assert (code, err) == (4, "")
    assert out.endswith("StopRequested\n")
