"""A stand-in for a model hub on loopback: as much of the protocol of huggingface.co as uploading and downloading ask.

    with Hub() as hub:
        push(folder, "me/agent", endpoint=hub.url)
        hub.repos["me/agent"].files["config.json"]

Files whose names end as weights do are uploaded over Git LFS (batch, then PUT), others inside the commit.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

LFS = (".safetensors", ".mp4", ".onnx")
TOKEN = "hf_stand_in_of_a_token"


@dataclass
class Repo:
    """The newest commit of a repository, and how many there were."""

    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.safetensors filter=lfs\n"})
    commits: int = 1
    private: bool = False

    @property
    def sha(self) -> str:
        return hashlib.sha1(str((self.commits, sorted(self.files))).encode()).hexdigest()


class Hub:
    """The server. `seen`: method, path and token of every request; `refuse`: a status for every further request."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.seen: list[tuple[str, str, str | None]] = []
        self.refuse: int | None = None
        hub = self

        class Handler(_Handler):
            owner = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Hub":
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, value: Any = b"", **headers: str) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _handle(self) -> None:
        hub, body = self.owner, self._body()
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization")
        hub.seen.append((self.command, path, token))
        if hub.refuse is not None:
            return self._answer(hub.refuse, {"error": "refused"})
        if self.command in ("POST", "PUT") and token != f"Bearer {TOKEN}" and not path.startswith("/blob/"):
            return self._answer(401, {"error": "who are you?"})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, path):
                return method(self, *found.groups(), body)
        self._answer(404, {"error": "no such thing"})

    do_GET = do_POST = do_PUT = do_HEAD = _handle

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        url = {"url": f"{self.owner.url}/{name}", "id": name}
        if name in self.owner.repos:
            return self._answer(409, url | {"error": "it is there already"})
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.owner.repos[name] = Repo(private=private)
        self._answer(200, url)

    def _repo(self, name: str) -> Repo | None:
        repo = self.owner.repos.get(name)
        if repo is None:
            self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        return repo

    def _preupload(self, name: str, _: str, body: bytes) -> None:
        if self._repo(name) is None:
            return
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(LFS) else "regular",
                "shouldIgnore": False,
            }
            for one in json.loads(body)["files"]
        ]
        self._answer(200, {"files": files})

    def _batch(self, name: str, body: bytes) -> None:
        objects = [
            {**one, "authenticated": True, "actions": {"upload": {"href": f"{self.owner.url}/blob/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def _blob(self, oid: str, body: bytes) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.owner.blobs[oid] = body
        self._answer(200)

    def _commit(self, name: str, _: str, body: bytes) -> None:
        if (repo := self._repo(name)) is None:
            return
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo.files[value["path"]] = self.owner.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del repo.files[value["path"]]
        repo.commits += 1
        about = {"commitUrl": f"{self.owner.url}/{name}/commit/{repo.sha}", "commitOid": repo.sha}
        self._answer(200, {"success": True, **about})

    def _info(self, name: str, revision: str | None, _: bytes) -> None:
        if (repo := self._repo(name)) is None:
            return
        if revision not in (None, "main", repo.sha):
            return self._answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        siblings = [{"rfilename": file, "size": len(content)} for file, content in repo.files.items()]
        self._answer(200, {"id": name, "modelId": name, "sha": repo.sha, "siblings": siblings, "private": repo.private})

    def _resolve(self, name: str, _: str, file: str, __: bytes) -> None:
        if (repo := self._repo(name)) is None:
            return
        if file not in repo.files:
            return self._answer(404, {"error": "no such file"}, X_Error_Code="EntryNotFound")
        content = repo.files[file]
        etag = hashlib.sha256(content).hexdigest()
        self._answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=repo.sha, X_Linked_Size=str(len(content)))


REPO = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    (rf"/api/models/{REPO}/preupload/(\w+)", _Handler._preupload),
    (rf"/api/models/{REPO}/commit/(\w+)", _Handler._commit),
    (rf"/api/models/{REPO}(?:/revision/([\w.-]+))?", _Handler._info),
    (rf"/{REPO}\.git/info/lfs/objects/batch", _Handler._batch),
    (r"/blob/([0-9a-f]{64})", _Handler._blob),
    (rf"/{REPO}/resolve/(\w+)/(.+)", _Handler._resolve),
]
