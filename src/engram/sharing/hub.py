"""`engram.push` and `engram.pull`: shared folders on a hub that speaks the protocol of huggingface.co.

Everything goes through the package huggingface_hub (extra `hub`). It finds the token by itself (`HF_TOKEN`, or what
`hf auth login` stored), and the hub too (`HF_ENDPOINT`). Here no token is read, told or written.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from engram.checkpoint.disk import Disk
from engram.errors import CheckpointError, EngramError, SpecError, WriteFailed, install, told, unwritten
from engram.run import packed
from engram.run.folders import holds_packed
from engram.run.packed import Packed
from engram.sharing.packing import check_place, pack, whole_or_not

ENDINGS = 64  # hexadecimal digits of a digest


class Pushed(NamedTuple):
    """What was pushed: its digest, the commit that holds it, and the page of the repository."""

    digest: str
    commit: str
    url: str


class Pulled(NamedTuple):
    """What was pulled: the folder, the commit that it came from, and what of the repository was left there."""

    packed: Packed
    commit: str
    left: list[str]


def push(agent: Any, repo: str, private: bool = False, endpoint: str | None = None, **packing: Any) -> Pushed:
    """Uploads a shared folder as one commit. A run, a `Trainer` or a trained agent is packed first.

    Args:
      agent: a shared folder, or what `engram.pack` takes, with `packing` for its other arguments.
      repo: NAME or OWNER/NAME; made if it is missing. Other files in it stay, save those of an older shared folder.
      private: of a repository that is made: not for everybody.
      endpoint: the hub, where it is not that of `HF_ENDPOINT` or huggingface.co.

    Raises: SpecError where the hub refuses or cannot be reached; what `engram.pack` raises.
    """
    hub = _hub()
    if isinstance(agent, str | Path) and holds_packed(Path(agent)):
        if given := sorted(name for name, value in packing.items() if value):
            raise SpecError(f"{agent} is packed already, and {given[0]} was given; leave it out, or name the run")
        return _upload(hub, packed.verified(Path(agent)), repo, private, endpoint)
    with tempfile.TemporaryDirectory(prefix="engram-push-") as place:
        return _upload(hub, pack(agent, Path(place) / "folder", **packing), repo, private, endpoint)


def pull(
    repo: str, folder: str | Path, revision: str | None = None, digest: str | None = None, endpoint: str | None = None
) -> Pulled:
    """Downloads a shared folder from a hub. It appears whole and verified, or not at all.

    Args:
      repo: OWNER/NAME. revision: a branch, a tag or a commit; the newest commit without it.
      folder: where to put it; it must not be there yet, or be empty.
      digest: what the folder's digest has to be, as whoever made it told; CheckpointError for another.
      endpoint: as for `push`.

    Files of the repository that belong to no shared folder are not downloaded.
    Raises: SpecError where the hub refuses or cannot be reached; CheckpointError where it holds no shared folder.
    """
    hub, folder = _hub(), Path(folder)
    check_place(folder)
    api = _api(hub, endpoint)
    with _told(hub, repo):
        info = api.model_info(repo, revision=revision, files_metadata=True)
    there = {one.rfilename: one.size for one in info.siblings or ()}
    if packed.CONFIG not in there:
        raise CheckpointError(f"{repo} holds no shared folder ({packed.CONFIG} is missing); ask its owner for another")

    def write(place: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".engram-pull-", dir=folder.absolute().parent) as beside:
            _download(hub, api, repo, str(info.sha), there, Path(beside).resolve(), place)

    found = whole_or_not(folder, write, lambda one: _check_digest(one, digest))
    left = sorted(there.keys() - found.files.keys() - set(packed.UNSEALED))
    return Pulled(found, str(info.sha), left)


def _check_digest(found: Packed, digest: str | None) -> None:
    if digest is not None and found.digest != digest:
        raise CheckpointError(f"what was pulled has the digest {found.digest}, not {digest[:ENDINGS]}; it was not kept")


# -- requests --------------------------------------------------------------------------------------------------------


def _upload(hub: Any, found: Packed, repo: str, private: bool, endpoint: str | None) -> Pushed:
    api = _api(hub, endpoint)
    names = [packed.CONFIG, packed.CARD, *found.files]
    with _told(hub, repo):
        made = api.create_repo(repo, private=private or None, exist_ok=True)
        name = made.repo_id
        info = api.model_info(name)
        if private and not info.private:
            raise SpecError(f"{name} is there already and is public; make it private on the hub first, or name another")
        there = {one.rfilename for one in info.siblings or ()}
        add, remove = hub.CommitOperationAdd, hub.CommitOperationDelete
        work = [add(one, str(found.folder / one)) for one in names if (found.folder / one).is_file()]
        work += [remove(one) for one in sorted(there & set(packed.SEALED) - found.files.keys())]
        done = api.create_commit(name, work, commit_message=f"Upload an agent of Engram, {found.digest[:12]}")
    return Pushed(found.digest, str(done.oid), str(made))


def _download(
    hub: Any, api: Any, repo: str, commit: str, there: dict[str, int | None], beside: Path, place: Path
) -> None:
    """config.json first, then what it names; only plain files of these names reach `place`."""

    def get(name: str, most: int) -> None:
        if (there[name] or 0) > most:
            raise CheckpointError(
                f"{name} of {repo} has {there[name]:,} bytes, more than the {most:,} that it may have"
            )
        with _told(hub, repo):
            got = Path(api.hf_hub_download(repo, name, revision=commit, local_dir=str(beside)))
        if got.is_symlink() or got.parent != beside:
            raise CheckpointError(f"{name} of {repo} did not arrive as a plain file; try again")
        shutil.move(got, place / name)

    get(packed.CONFIG, packed.LARGEST)
    config = packed.config_of(place)
    sizes = {name: packed.sealed_of(name, entry).bytes for name, entry in config["files"].items()}
    if missing := sorted(sizes.keys() - there.keys()):
        raise CheckpointError(f"{repo} lacks {missing[0]}, which its {packed.CONFIG} names; ask its owner")
    if sum(sizes.values()) > Disk().free(place):
        raise CheckpointError(f"{repo} has {sum(sizes.values()):,} bytes, more than are free; make room")
    for name, size in sizes.items():
        get(name, size)
    if packed.CARD in there:
        get(packed.CARD, packed.LARGEST)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise SpecError(f"a hub needs the package huggingface-hub; {install('hub')}") from None
    return huggingface_hub


def _api(hub: Any, endpoint: str | None) -> Any:
    from importlib.metadata import version

    return hub.HfApi(endpoint=endpoint, library_name="engram-rl", library_version=version("engram-rl"))


@contextmanager
def _told(hub: Any, repo: str) -> Iterator[None]:
    """Turns what the hub's client raises into one sentence."""
    errors = hub.errors
    transport = errors.HfHubHTTPError.__bases__[0]  # of the HTTP library that it uses
    try:
        yield
    except EngramError:
        raise
    except errors.HFValidationError:
        raise SpecError(
            f"{repo!r} cannot name a repository; write OWNER/NAME, of letters, digits, -, _ and ."
        ) from None
    except errors.RevisionNotFoundError:
        raise SpecError(f"{repo} has no such revision; name a branch, a tag or a commit, or none") from None
    except errors.RepositoryNotFoundError:
        raise SpecError(
            f"the hub knows no repository {repo}, or shows it to others only; mend the name, or log in (hf auth login)"
        ) from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        raise SpecError(f"the hub refused {repo}: {_refusal(status)}") from None
    except (transport, errors.LocalEntryNotFoundError, errors.FileMetadataError, errors.OfflineModeIsEnabled) as error:
        raise SpecError(
            f"the hub cannot be reached ({type(error).__name__}); look at the network and at HF_ENDPOINT, and try again"
        ) from None
    except OSError as error:
        raise WriteFailed(unwritten(error.filename or repo, error)) from None
    except ValueError as error:
        raise SpecError(f"the hub refused {repo}: {told(error)}; mend that and try again") from None


def _refusal(status: int | None) -> str:
    if status in (401, 403):
        return "no token that may do this is known; log in (hf auth login), or set HF_TOKEN"
    if status == 429:
        return "there were too many requests; wait and try again"
    return f"it answered with HTTP {status}; try again later"
