"""A real ComfyUI for the tests: found through COMFYUI_PATH (default ~/comfy/ComfyUI), else they are skipped, loudly.

Its Python is COMFYUI_PYTHON, or the environment `venv` or `.venv` in its folder, or `venv` beside it.
The host runs on the CPU, in a folder of its own (models, input, output), with this extension only.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
EXTENSION = "zero2hero"
STANDINS = "zero2hero_standins"  # nodes for the tests, in the place of models that are too large
START_SECONDS = 600  # a busy machine with two cores needs minutes to import torch and the host


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a session waits for the host to start."""
    for item in items:
        if item.path.is_relative_to(HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def comfy_path() -> Path:
    """The folder of the host."""
    folder = Path(os.environ.get("COMFYUI_PATH", "~/comfy/ComfyUI")).expanduser()
    if not (folder / "main.py").is_file():
        pytest.skip(f"NO ComfyUI HERE: no main.py in {folder}; set COMFYUI_PATH to run the tests of the nodes")
    return folder


@pytest.fixture(scope="session")
def host_python(comfy_path: Path) -> Path:
    """The Python that runs the host."""
    folders = [comfy_path / "venv", comfy_path / ".venv", comfy_path.parent / "venv"]
    found = [folder / place for folder in folders for place in ("bin/python", "Scripts/python.exe")]
    if "COMFYUI_PYTHON" in os.environ:
        found = [Path(os.environ["COMFYUI_PYTHON"]).expanduser()]
    python = next((path for path in found if path.is_file()), None)
    if python is None:
        pytest.skip(f"NO PYTHON FOR ComfyUI: none of {', '.join(map(str, found))}; set COMFYUI_PYTHON")
    return python


@pytest.fixture(scope="session")
def host_environment() -> dict[str, str]:
    """What host processes inherit: offline, one thread unless the caller wants more, no bytecode in the checkout."""
    settings = {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    return os.environ | settings | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


@pytest.fixture
def run_in_host(
    comfy_path: Path, host_python: Path, host_environment: dict[str, str], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_in_host(script, *args, flags=(), timeout=900)`: run a script of tests/host/scripts inside the host.

    The extension is importable there as `zero2hero_ext`. flags: the host's ("--novram"). A script that fails, fails the
    test with its output. Returns: the finished process with its output as text.
    """

    def run(script: str | Path, *args: object, flags: tuple[str, ...] = (), timeout: float = 900) -> Any:
        base = tmp_path / "host"
        base.mkdir(exist_ok=True)
        path = HERE / "scripts" / script
        command = [host_python, HERE / "bootstrap.py", comfy_path, base, path, "--host", *flags, "--", *args]
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, timeout=timeout, env=host_environment
        )
        if done.returncode != 0:
            pytest.fail(f"{path.name} exited with {done.returncode}\n{done.stdout}\n{done.stderr}", pytrace=False)
        return done

    return run


@pytest.fixture(scope="session")
def printed() -> dict[tuple[str, ...], str]:
    """The last line that a script printed, by its name and arguments."""
    return {}


@pytest.fixture
def answer(
    run_in_host: Callable[..., subprocess.CompletedProcess[str]], printed: dict[tuple[str, ...], str]
) -> Callable[..., Any]:
    """`answer(script, *args, timeout=900)`: the JSON on the last line that a script prints; several tests may look at
    what it printed once."""

    def ask(script: str, *args: object, **options: Any) -> Any:
        key = (script, *map(str, args))
        if key not in printed:
            printed[key] = run_in_host(script, *args, **options).stdout.splitlines()[-1]
        return json.loads(printed[key])

    return ask


class ExecutionError(Exception):
    """A prompt was refused or failed; the message is what the user reads. node_id: where, "" when unknown."""

    def __init__(self, message: str, node_id: str = "") -> None:
        super().__init__(message)
        self.node_id = node_id


class HostServer:
    """A running host.

    base: its folder; input, output: its folders for files; log: what it has printed; start_log: until it was up.
    """

    start_log = ""

    def __init__(self, base: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.base, self.input, self.output = base, base / "input", base / "output"
        self.url = f"http://127.0.0.1:{port}"
        self.process = process

    @property
    def log(self) -> str:
        """Everything the host has printed so far."""
        return (self.base / "host.log").read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> Any:
        """GET, answer as JSON."""
        return self._ask(urllib.request.Request(self.url + path))

    def post(self, path: str, data: object | None = None) -> Any:
        """POST JSON, answer as JSON (None where it is empty)."""
        body = json.dumps({} if data is None else data).encode()
        return self._ask(urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"}))

    def submit(self, prompt: dict[str, Any], workflow: dict[str, Any] | None = None) -> str:
        """Queue a graph in API format; return its id. Raises: ExecutionError when the host refuses it."""
        extra = {} if workflow is None else {"extra_data": {"extra_pnginfo": {"workflow": workflow}}}
        try:
            return str(self.post("/prompt", {"prompt": prompt, "client_id": "tests"} | extra)["prompt_id"])
        except urllib.error.HTTPError as error:
            raise ExecutionError(error.read().decode()) from error

    def wait(self, prompt_id: str, timeout: float = 900) -> dict[str, Any]:
        """Wait for the end; return the outputs shown in the front end, node id -> {"images": [...] ...}.

        Raises: ExecutionError when a node failed or the run was cancelled; TimeoutError.
        """
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                self._raise_failure(entry.get("status") or {})
                return entry["outputs"]
            time.sleep(0.2)
        raise TimeoutError(f"{prompt_id} took more than {timeout} s\n{self.log[-3000:]}")

    def queue(
        self, prompt: dict[str, Any], timeout: float = 900, workflow: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Queue a graph and wait for its outputs; see `submit` and `wait`."""
        return self.wait(self.submit(prompt, workflow), timeout)

    def forget(self) -> None:
        """Drop loaded models and what nodes gave. The host does it between two graphs, and says nothing: a blank
        picture comes before or after."""
        self.post("/free", {"unload_models": True, "free_memory": True})
        blank = {"width": 16, "height": 16, "batch_size": 1, "color": 0}
        shown = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
        self.queue({"1": {"class_type": "EmptyImage", "inputs": blank}, "2": shown})

    def files(self, outputs: dict[str, Any], node_id: str) -> list[Path]:
        """The files that a node saved."""
        shown = outputs[node_id]["images"]
        return [self.base / item["type"] / item["subfolder"] / item["filename"] for item in shown]

    def _raise_failure(self, status: dict[str, Any]) -> None:
        for kind, data in status.get("messages", []):
            if kind == "execution_error":
                raise ExecutionError(data["exception_message"], data["node_id"])
            if kind == "execution_interrupted":
                raise ExecutionError("interrupted", data["node_id"])

    def _ask(self, request: urllib.request.Request) -> Any:
        with urllib.request.urlopen(request, timeout=60) as answer:
            body = answer.read()
        return json.loads(body) if body else None


@pytest.fixture(scope="session")
def server_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The host's folder, with the extension in custom_nodes; model files may be put there before the host starts."""
    base = tmp_path_factory.mktemp("comfyui")
    for name in ("custom_nodes", "input", "output", "user", "models/loras", "models/checkpoints"):
        (base / name).mkdir(parents=True)
    shutil.copytree(HERE / "standins", base / "custom_nodes" / STANDINS)
    try:
        (base / "custom_nodes" / EXTENSION).symlink_to(REPOSITORY, target_is_directory=True)
    except OSError:  # Windows without the privilege
        skipped = shutil.ignore_patterns(".git", ".venv", "runs", "out", "demo")
        shutil.copytree(REPOSITORY, base / "custom_nodes" / EXTENSION, ignore=skipped)
    return base


@pytest.fixture(scope="session")
def server(
    comfy_path: Path, host_python: Path, host_environment: dict[str, str], server_base: Path
) -> Iterator[HostServer]:
    """A running host with the extension, shared by all tests of the session."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--cpu", "--port", str(port), "--base-directory", str(server_base), "--disable-api-nodes"]
    flags += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", EXTENSION, STANDINS]
    flags += ["--disable-auto-launch", "--database-url", "sqlite:///:memory:"]
    with (server_base / "host.log").open("wb") as log:
        process = subprocess.Popen(
            [str(host_python), "main.py", *flags], cwd=comfy_path, stdout=log, stderr=log, env=host_environment
        )
    host = HostServer(server_base, port, process)
    try:
        _wait_until_up(host)
        yield host
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def described(server: HostServer) -> dict[str, Any]:
    """What the host says of its nodes, by node type."""
    return server.get("/object_info")


def _wait_until_up(host: HostServer) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if host.process.poll() is not None:
            pytest.fail(f"ComfyUI stopped with {host.process.returncode} while starting\n{host.log[-4000:]}")
        try:
            host.get("/system_stats")
            host.start_log = host.log
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    pytest.fail(f"ComfyUI did not start within {START_SECONDS} s\n{host.log[-4000:]}")
