"""What all tests share: no network, a bounded number of threads, and the sample clips where they are at hand."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Before anything imports torch or diffusers, and inherited by the processes that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
# Processes side by side share the cores: more threads than cores make all of them crawl.
_threads = max(1, min(4, os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
os.environ["OMP_NUM_THREADS"] = str(min(_threads, int(os.environ.get("OMP_NUM_THREADS", _threads))))

# Not installed: the checkout goes last, so that its `nodes` folder does not hide the host's module of that name.
if importlib.util.find_spec("zero2hero_core") is None:
    sys.path.append(str(ROOT))

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests in a host take longest: they come first."""
    items.sort(key=lambda item: not item.path.is_relative_to(ROOT / "tests" / "host"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several processes: a file at a time, but tests that share a running host, or take most of the memory, in one
    process."""
    from xdist.scheduler import LoadScopeScheduling

    apart = ("tests/host/test_memory.py", "tests/host/test_zero_nodes.py")  # mostly hosts of their own

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "tests/host" if file.startswith("tests/host/") and file not in apart else file

    config.option.loadscopereorder = False  # it would put the many small tests first
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of sample clips beside the checkout; tests that need it are skipped where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the sample clips are not here: expected ../shared/data beside the checkout")
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection to another machine fails; loopback and local sockets stay open."""
    connect = socket.socket.connect

    def checked_connect(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in LOOPBACK:
            raise ConnectionError(f"tests use no network, but this one connects to {address!r}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", checked_connect)
