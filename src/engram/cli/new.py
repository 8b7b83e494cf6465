"""`engram new ROLE NAME`: a part of one's own, as a file that works and a test of its contract.

Each role has two templates, `templates/ROLE.py.txt` and `templates/ROLE_test.py.txt`, in which `$name` is the part's
name, and `$Name` that of its class. A role is added by its two files and a line of `TRY`.
"""

import keyword
import re
from importlib.util import find_spec
from pathlib import Path
from string import Template

from engram.errors import EngramError, SpecError, UnknownName, hint

TEMPLATES = Path(__file__).parent / "templates"
NAME = re.compile(r"[a-z][a-z0-9_]*")
# What `engram train` is given to try a part of each role.
TRY = {
    "agent": "CartPole-v1 --preset pqn --import {name} agent={name}",
    "encoder": "CartPole-v1 --import {name} encoder={name}",
    "working": "CartPole-v1 --preset drqn --import {name} working={name}",
    "external": "CartPole-v1 --import {name} external={name}",
    "head": "CartPole-v1 --import {name} head={name}",
    "exploration": "CartPole-v1 --import {name} exploration={name}",
    "draw": "CartPole-v1 --import {name} draw={name}",
    "bootstrap": "CartPole-v1 --import {name} bootstrap={name}",
    "loss": "CartPole-v1 --import {name} loss={name}",
}


def new_part(role: str, name: str, folder: Path) -> tuple[Path, Path]:
    """Writes NAME.py and test_NAME.py into the folder, and gives their paths.

    Raises: UnknownName for a role without templates; SpecError for a name that is no free name of a module;
    EngramError where one of the files is there already. Nothing is overwritten.
    """
    if role not in TRY:
        raise UnknownName(f"engram new makes no {role!r}; {hint(role, TRY)}")
    files = folder / f"{name}.py", folder / f"test_{name}.py"
    for path in files:
        if path.exists():
            raise EngramError(f"{path.name} is there already; choose another name, or move the file away")
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise SpecError(f"{name!r} was given; expected a name of small letters, digits and _, such as my_{role}")
    if find_spec(name) is not None:
        raise SpecError(f"{name!r} is a module of Python or of an installed package; choose a name such as my_{role}")
    words = {"name": name, "Name": "".join(word.capitalize() for word in name.split("_"))}
    for path, template in zip(files, (f"{role}.py.txt", f"{role}_test.py.txt"), strict=True):
        with path.open("x") as file:
            file.write(Template((TEMPLATES / template).read_text()).substitute(words))
    return files
