"""The peers' own Python environments: what is installed in each, and building them once.

Every peer gets a virtual environment of its own, because their requirements exclude each other and must never
reach Engram's. Versions are pinned: a speed is a statement about a version.
"""

import json
import subprocess
import sys
import venv
from pathlib import Path

# Each inner tuple is one `pip install`, in this order. Torch comes first and alone: installed as somebody's
# requirement, pip would look for the newest build instead of the pinned one.
REQUIREMENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "sb3": (
        ("torch==2.13.0",),
        ("stable-baselines3==2.9.2", "gymnasium==1.4.0", "ale-py==0.12.1", "opencv-python-headless"),
    ),
    # Robot arms, for learning/arm.py.
    "sb3-arm": (("torch==2.13.0",), ("stable-baselines3==2.9.2", "gymnasium[mujoco]==1.4.0", "mujoco==3.9.0")),
    # SBX needs Stable-Baselines3, and so torch, too: the floor (bare environments, torch and JAX) runs here as well.
    "sbx": (
        ("torch==2.13.0",),
        ("sbx-rl==0.28.0", "stable-baselines3==2.9.2", "gymnasium==1.4.0", "jax==0.10.2", "flax==0.12.8"),
        ("ale-py==0.12.1", "opencv-python-headless"),
    ),
    # Indexes of keys, for memory_cost.py.
    "index": (("faiss-cpu==1.15.1", "usearch==2.26.6", "numpy==2.4.6"),),
    # Replays, for memory/replay.py.
    "replay": (("cpprb==11.0.0", "flashbax==0.1.3", "jax==0.10.2", "numpy==2.4.6"),),
    "torchrl": (("torch==2.13.0",), ("torchrl==0.14.1", "tensordict==0.14.3", "gymnasium==1.4.0")),
    # gymnax 1.0 changed what `step` returns, which rejax 0.1.3 cannot unpack; gymnax 0.0.9 forgets to ask for six.
    "rejax": (("rejax==0.1.3", "gymnax==0.0.9", "jax==0.10.2", "flax==0.12.8", "six"),),
    # purejaxql itself comes from a checkout; its scripts import hydra and wandb even where neither is used.
    "purejaxql": (
        ("gymnax==0.0.9", "jax==0.10.2", "flax==0.12.8", "optax==0.2.8", "chex==0.1.92", "six"),
        ("hydra-core==1.3.2", "wandb==0.31.0", "safetensors==0.8.0"),
    ),
    # memorax unpacks five things from `step`, too; without the pin pip takes gymnax 1.
    "memorax": (("memorax==1.0.1", "gymnax==0.0.9", "jax==0.10.2", "flax==0.12.8", "flashbax==0.1.3", "six"),),
}


class InstallFault(RuntimeError):
    """A peer's environment could not be built."""


def interpreter(name: str, folder: Path) -> Path:
    """The Python of environment `name` under `folder`, built first if it is absent, unfinished or outdated.

    Raises InstallFault with pip's last words if the installation fails.
    """
    place = folder / name
    python = place / "bin" / "python"
    done = place / "installed.json"  # written last: a build that was cut short has none
    wanted = json.dumps(REQUIREMENTS[name])
    if done.exists() and done.read_text() == wanted and python.exists():
        return python
    print(f"building the environment of {name} in {place} (minutes, once)", file=sys.stderr, flush=True)
    venv.create(place, clear=True, with_pip=True)
    for packages in REQUIREMENTS[name]:
        command = [str(python), "-m", "pip", "install", "--quiet", *packages]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise InstallFault(
                f"the environment of {name!r} could not be built: `pip install {' '.join(packages)}` said: "
                f"{result.stderr.strip()[-800:]}; install it by hand or leave {name!r} out of --peers"
            )
    done.write_text(wanted)
    return python
