"""What a log is spared: thousands of lines that say that all is well with one item of a batch."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_quiet: ContextVar[bool] = ContextVar("aisa_quiet", default=False)
_PACKAGE: Final = "airflow_provider_aisa.core"
_CHATTY: Final = (f"{_PACKAGE}.generate", f"{_PACKAGE}.purchase", f"{_PACKAGE}.images.transfer", "httpx")


class _OnlyWarnings(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or not _quiet.get()


for _name in _CHATTY:
    logging.getLogger(_name).addFilter(_OnlyWarnings())


@contextmanager
def quietly() -> Iterator[None]:
    """Let those who tell of each single request be silent but for warnings, in this context."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)
