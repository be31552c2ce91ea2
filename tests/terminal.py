"""A command on a terminal of 80 columns, and what it wrote there."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import threading

COLUMNS = 80


class Terminal:
    """A command on a terminal of its own; `text` is all that it wrote so far."""

    def __init__(self, *words: str, **env: str) -> None:
        ours, theirs = pty.openpty()
        subprocess.run(["stty", "columns", str(COLUMNS), "rows", "24"], stdin=theirs, check=True)
        self.text = ""
        inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")}
        self.process = subprocess.Popen(
            words, stdin=theirs, stdout=theirs, stderr=theirs, env={**inherited, "TERM": "xterm", **env}, start_new_session=True
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()

    def _read(self, ours: int) -> None:
        with os.fdopen(ours, "rb", buffering=0) as file:
            data = b""
            while True:
                try:
                    more = file.read(65536)
                except OSError:  # the command has ended
                    return
                if not more:
                    return
                data += more
                self.text = data.decode(errors="replace")

    def lines(self) -> list[str]:
        """Every state of every line, without colours and movements of the cursor."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text)
        return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]

    def end(self) -> int:
        code = self.process.wait(120)
        self._reader.join(30)
        return code
