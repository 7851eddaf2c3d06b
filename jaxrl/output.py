"""How this package prints: a stream that cannot be written to never ends a run. No JAX here."""

import contextlib
from typing import Any


class Output:
    """A text stream around another one, such as `sys.stdout`, that takes every text. A character that cannot be encoded
    is replaced by a question mark. A text that cannot be written at all is dropped: the stream is closed, its reader is
    gone, it is None as where there is no console, or it raises anything else.

    Args:
      stream: where to write.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:
        """The encoding that the stream declares, and UTF-8 where it declares none."""
        with contextlib.suppress(Exception):
            return str(self._stream.encoding or "utf-8")
        return "utf-8"

    def isatty(self) -> bool:
        """True if the stream is a terminal."""
        with contextlib.suppress(Exception):
            return bool(self._stream.isatty())
        return False

    def write(self, text: str) -> int:
        """Writes `text`; returns its length, as text streams do."""
        with contextlib.suppress(Exception):
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:
                encoding = getattr(self._stream, "encoding", None) or error.encoding
                self._stream.write(text.encode(encoding, "replace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Hands on what the stream has collected."""
        with contextlib.suppress(Exception):
            self._stream.flush()


def say(line: str, stream: Any) -> None:
    """Prints a line to `stream` at once, or as much of it as the stream takes; raises nothing."""
    output = Output(stream)
    output.write(f"{line}\n")
    output.flush()
