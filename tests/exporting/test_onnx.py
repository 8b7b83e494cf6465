"""ONNX files in onnxruntime, in a browser, and weights in PyTorch. All of it is slow: the extra `export` is large.

Set ENGRAM_TORCH_PYTHON to a Python that has torch and safetensors, to test `to_torch.py`; and ENGRAM_NODE_MODULES to a
folder `node_modules` that has onnxruntime-web, to test `run.mjs`, or let npm install it.
"""

import dataclasses
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engram.errors import SpecError
from engram.exporting import folder
from engram.exporting.onnx import converted, runner, write
from engram.exporting.parity import compared
from engram.exporting.step import step_of
from engram.play.trained import TrainedAgent
from engram.spaces import Box, Dict, Discrete, MultiDiscrete

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks.house.export_parity import CASES, IMAGE, NUMBERS, Case, missing, of  # noqa: E402

HANDS = Dict((("card", Discrete(5)), ("hands", MultiDiscrete((4, 2))), ("speed", Box((2,), low=-90, high=10))))

# What rounding leaves: sums in another order. The mean of a distribution over returns up to 10 carries theirs.
NEAR, OF_DISTRIBUTIONS = 3e-6, 2e-5


@pytest.fixture(autouse=True)
def installed() -> None:
    pytest.importorskip("jax2onnx", reason="the extra export is not installed: uv sync --extra export")


@functools.cache
def made(name: str) -> tuple[Any, Any]:
    return CASES[name].mind()


# What jax2onnx 0.17.1 does not write, or onnxruntime 1.32.0 does not run; the last one below opset 18.
REFUSED = ("external=chunked", "external=votes", "external=episodic, multi-head", "external=episodic, shuffle")


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_run_is_refused_in_a_sentence(name: str):
    step = step_of(*made(name))
    with pytest.raises(SpecError, match="cannot (run|write) .*export it to stablehlo"):
        compared(step, runner(converted(step)))


@pytest.mark.parametrize("opset", [17, 23])
@pytest.mark.parametrize("name", [name for name in CASES if name not in REFUSED])
def test_a_file_is_the_agent(name: str, opset: int):
    step = step_of(*made(name))
    found = compared(step, runner(converted(step, opset)))
    fixed = made(name)[0].head.predicts == "fixed"
    assert found["difference"] < (OF_DISTRIBUTIONS if fixed else NEAR), found["outputs"]
    assert found["actions"] == 0


def test_every_kind_of_part_has_a_case():
    assert missing() == []


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_a_file_takes_every_batch(batch: int):
    step = step_of(*made("working=gru"))
    assert compared(step, runner(converted(step)), batch)["difference"] < NEAR


def test_a_wrong_shape_is_refused_by_the_reader():
    run = runner(converted(step_of(*made("head=q"))))
    with pytest.raises(Exception, match="invalid dimensions"):
        run({"observation": np.zeros((1, 5), np.float32)})


def test_jax_is_as_it_was_after_a_conversion():
    """jax2onnx 0.17.1 leaves a `jnp.cumsum` of its own behind, which takes no second place."""
    before = dict(vars(jnp))
    converted(step_of(*made("head=q")))
    assert {name for name, value in before.items() if vars(jnp)[name] is not value} == set()
    assert jnp.cumsum(jnp.ones(3), 0).tolist() == [1, 2, 3]


def test_what_the_converter_does_not_know_is_a_sentence():
    step = step_of(*made("head=q"))
    strange = dataclasses.replace(step, one=lambda x: (jax.lax.linalg.schur(jnp.outer(x, x))[0][0], jnp.int32(0)))
    with pytest.raises(SpecError, match=r"cannot write this agent with opset 17 .*export it to stablehlo"):
        converted(strange)


# -- a folder --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an agent of no run is known by."""

    agent: Any
    space: Any
    actions: int
    env: str | None = "CartPole-v1"
    preset: str = "dqn"
    env_args: Any = dataclasses.field(default_factory=dict)
    action_bins: None = None
    max_episode_steps: None = None
    shown: None = None
    seed: int = 0


def agent_of(case: Case) -> TrainedAgent:
    spec, mind = case.mind()
    return TrainedAgent(Plan(spec, case.space, case.actions), [mind], None)


def folder_of(case: Case, place: Path) -> Path:
    agent = agent_of(case)
    place.mkdir()
    for name, content in folder.contents(agent, step_of(agent.plan.agent, agent.minds[0]), 17).items():
        (place / name).write_bytes(content)
    return place


def ran(*words: Any) -> str:
    run = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


def differences(said: str) -> list[float]:
    return [float(line.split()[-1]) for line in said.splitlines() if "largest difference" in line]


def test_a_file_says_in_its_metadata_what_it_is(tmp_path: Path):
    import onnx

    described = write(agent_of(CASES["head=q"]), tmp_path / "policy.onnx", opset=17)
    model = onnx.load(tmp_path / "policy.onnx")
    onnx.checker.check_model(model)
    assert json.loads({one.key: one.value for one in model.metadata_props}["engram"]) == described
    assert [one.version for one in model.opset_import if one.domain == ""] == [17]
    assert [one.name for one in model.graph.input] == ["observation"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("name", ["head=q", "working=lstm", "external=episodic"])
def test_the_script_for_python_acts_as_the_agent_does(name: str, tmp_path: Path):
    place = folder_of(CASES[name], tmp_path / "policy")
    said = ran(sys.executable, place / "run_onnxruntime.py")
    assert [line.split()[0] for line in said.splitlines()] == ["action", "action", "largest"]
    assert max(differences(said)) < 1e-5


def test_scripts_are_short():
    lengths = {name: (folder.TEMPLATES / f"{name}.txt").read_text().count("\n") for name in folder.SCRIPTS}
    assert max(lengths[name] for name in ("run_onnxruntime.py", "run.mjs", "run.html")) <= 20


IN_TORCH = {
    "MLP": of(NUMBERS),
    "normalised MLP, dueling": of(NUMBERS, encoder__norm="true", head="dueling", head__width="8"),
    "categories": of(HANDS),
    "convolutions": CASES["encoder=pixels"],
    "convolutions of a stack": CASES["observation.stack=4"],
    "a board": CASES["encoder=grid"],
    "GRU": CASES["working=gru"],
    "two layers": CASES["working=gru, 2 layers"],
    "LSTM": CASES["working=lstm"],
    "noisy": CASES["head=q, noisy"],
}


@pytest.mark.parametrize("name", IN_TORCH)
def test_the_module_of_pytorch_gives_the_same_q_and_carries_the_same(name: str, tmp_path: Path):
    python = os.environ.get("ENGRAM_TORCH_PYTHON")
    if python is None:
        pytest.skip("set ENGRAM_TORCH_PYTHON to a Python that has torch and safetensors")
    place = folder_of(IN_TORCH[name], tmp_path / "policy")
    found = differences(ran(python, place / "to_torch.py"))
    assert max(found) < 1e-5


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder node_modules with onnxruntime-web."""
    given = os.environ.get("ENGRAM_NODE_MODULES")
    if given is not None:
        return Path(given)
    place = tmp_path_factory.mktemp("npm")
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed; set ENGRAM_NODE_MODULES to a node_modules with onnxruntime-web")
    command = ["npm", "install", "onnxruntime-web@1.22.0", "--no-audit", "--no-fund", "--ignore-scripts"]
    if subprocess.run(command, cwd=place, capture_output=True, timeout=300).returncode:
        pytest.skip("npm could not install onnxruntime-web; set ENGRAM_NODE_MODULES to a node_modules with it")
    return place / "node_modules"


class Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map: ClassVar[Any] = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def browser() -> Iterator[Any]:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no browser was found: install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=["--disable-gpu", "--no-sandbox"])
        yield started
        started.close()


@pytest.mark.parametrize("name", ["head=q", "working=lstm", "external=episodic", "encoder=grid", "action_mask"])
def test_a_page_acts_as_the_agent_does_and_asks_no_other_host(name: str, tmp_path: Path, modules: Path, browser: Any):
    place = folder_of(CASES[name], tmp_path / "policy")
    (place / "node_modules").symlink_to(modules)
    handler = functools.partial(Quiet, directory=str(place))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"http://127.0.0.1:{server.server_port}/run.html")
    page.wait_for_function("document.getElementById('told').textContent !== 'loading'", timeout=120_000)
    said = page.text_content("#told")
    server.shutdown()
    assert "largest difference" in said, said
    assert float(said.split()[-1]) < 1e-5
    assert all(url.startswith("http://127.0.0.1:") for url in asked)


def test_an_image_is_given_as_it_is():
    step = step_of(*CASES["encoder=pixels"].mind())
    assert [(port.shape, port.dtype) for port in step.inputs] == [(IMAGE.shape, "uint8")]
