"""A Hub of one's own: what huggingface_hub's client asks of the Hub to push and to load models, on this machine.

    with HubServer() as hub:
        token = hub.add_token()
        subprocess.run(command, env=hub.environment(folder, token), stdin=subprocess.DEVNULL)
        hub.files("tester/model"), hub.commits("tester/model")

The client reads its environment when it is imported, so it runs in a process of its own; its input must not be a
terminal, or it may ask there whether to trust code. Everything is kept in memory, and a commit is never changed.
Models only, no pull requests, no Xet.
"""

import base64
import fnmatch
import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


DATE = "2026-01-01T00:00:00.000Z"
# Without a `.gitattributes` of its own a repository keeps these, and all that is large, in LFS
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".zip", ".png", ".mp4", ".npy", ".npz", ".onnx")
LFS_SIZE = 10 * 2**20  # bytes
MULTIPART_SIZE = 5 * 2**30  # bytes; what is larger is uploaded in parts
NO_RIGHTS = "Forbidden: you must use a write token to upload to a repository."
BAD_TOKEN = "Invalid credentials in Authorization header"
STALE = "A commit has happened since. Please refresh and try again."


REPO = r"(?P<repo>[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"
OBJECT = r"(?P<oid>[0-9a-f]{64})"
# Method, path, and the operation, which is the name of a method of the handler
ROUTES = (
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/validate-yaml", "validate"),
    ("POST", "/api/repos/create", "create"),
    ("DELETE", "/api/repos/delete", "delete"),
    ("GET", f"/api/models/{REPO}", "info"),
    ("GET", f"/api/models/{REPO}/auth-check(?P<write>/write)?", "auth_check"),
    ("GET", f"/api/models/{REPO}/revision/{REVISION}", "info"),
    ("GET", f"/api/models/{REPO}/tree/{REVISION}(?:/(?P<path>.+))?", "tree"),
    ("POST", f"/api/models/{REPO}/paths-info/{REVISION}", "paths_info"),
    ("GET", f"/api/models/{REPO}/refs", "refs"),
    ("GET", f"/api/models/{REPO}/commits/{REVISION}", "list_commits"),
    ("POST", f"/api/models/{REPO}/branch/(?P<branch>[^/]+)", "branch"),
    ("POST", f"/api/models/{REPO}/tag/{REVISION}", "tag"),
    ("POST", f"/api/models/{REPO}/preupload/{REVISION}", "preupload"),
    ("POST", f"/api/models/{REPO}/commit/{REVISION}", "commit"),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "batch"),
    ("POST", rf"/{REPO}\.git/info/lfs/verify", "verify"),
    ("POST", rf"/{REPO}\.git/info/lfs/complete", "complete"),
    ("PUT", f"/storage/{OBJECT}", "upload"),
    ("PUT", f"/storage/{OBJECT}/(?P<number>[0-9]+)", "part"),
    ("GET", f"/storage/{OBJECT}", "download"),
    ("GET", f"/{REPO}/resolve/{REVISION}/(?P<path>.+)", "resolve"),
)


class HubError(Exception):
    """An answer that says no."""

    def __init__(self, status: int, message: str, code: str | None = None, commit: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.commit = status, message, code, commit


@dataclass(frozen=True)
class Blob:
    """A file of a commit."""

    data: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        """What git calls the file, or the pointer that stands for it."""
        data = self.data
        if self.is_lfs:
            data = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(data)}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def describe(self, path: str) -> dict:
        """As in the tree of a repository."""
        entry = {"type": "file", "path": path, "oid": self.oid, "size": len(self.data)}
        if self.is_lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": 134}
        return entry


@dataclass(frozen=True)
class Commit:
    """A state of a repository, and how it came to be."""

    sha: str
    parent: "Commit | None"
    title: str
    message: str
    author: str
    files: dict[str, Blob]


@dataclass
class Repo:
    """Branches, tags and commits, by their names."""

    name: str
    private: bool
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    all_commits: dict[str, Commit] = field(default_factory=dict)

    def add(self, branch: str, parent: Commit | None, title: str, message: str, author: str, files: dict) -> Commit:
        """A commit on a branch."""
        content = [(path, blob.sha256) for path, blob in sorted(files.items())]
        key = repr((self.name, len(self.all_commits), parent and parent.sha, title, message, content))
        commit = Commit(hashlib.sha1(key.encode()).hexdigest(), parent, title, message, author, dict(files))
        self.branches[branch] = self.all_commits[commit.sha] = commit
        return commit

    def find(self, revision: str) -> Commit:
        """What a branch, a tag, or a hash, whole or its beginning, names."""
        revision = revision.removeprefix("refs/heads/")
        for names in (self.branches, self.tags, self.all_commits):
            if revision in names:
                return names[revision]
        for sha, commit in self.all_commits.items():
            if len(revision) >= 7 and sha.startswith(revision):
                return commit
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


@dataclass
class Token:
    """Who shows it, and what it allows."""

    user: str
    role: str  # "write" or "read"


@dataclass
class _Fault:
    status: int | None
    times: int | None  # how often it still happens; None for ever


class HubServer:
    """The server; a context manager that starts and stops it.

    Args:
        multipart_size: Files of more bytes are uploaded in parts of so many.
    """

    def __init__(self, multipart_size: int = MULTIPART_SIZE):
        self.multipart_size = multipart_size
        self.repos: dict[str, Repo] = {}
        self.tokens: dict[str, Token] = {}
        self.requests: list[tuple[str, str, int]] = []  # operation, path and status of every answer
        self.cards: list[str] = []  # of which the client asked whether their front matter is valid
        self.uploads: list[str] = []  # SHA-256 of what was uploaded by LFS
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.lock = threading.RLock()
        self._faults: dict[str, _Fault] = {}
        self._calls: dict[str, Callable[[], object]] = {}
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> "HubServer":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def storage_url(self) -> str:
        """Where the contents of large files are: on another host, which gets no token, as on the Hub."""
        return f"http://localhost:{self._server.server_address[1]}/storage"

    # What tests set up

    def add_token(self, role: str = "write", user: str = "tester") -> str:
        """A token of a user that may "write" or only "read"."""
        token = f"hf_{hashlib.sha1(f'{role} {user} {len(self.tokens)}'.encode()).hexdigest()[:34]}"
        self.tokens[token] = Token(user, role)
        return token

    def revoke(self, token: str) -> None:
        """Make a token invalid."""
        del self.tokens[token]

    def create_repo(self, repo_id: str, private: bool = False) -> Repo:
        """A repository of whoever its name says."""
        repo = self.repos[repo_id] = Repo(repo_id, private)
        rules = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        blob = Blob(rules.encode(), False)
        repo.add("main", None, "initial commit", "", repo_id.split("/")[0], {".gitattributes": blob})
        return repo

    def environment(self, home: object, token: str | None = None) -> dict[str, str]:
        """Of a process whose client shall know this Hub only.

        Args:
            home: Folder for its cache; an empty one for a client that has loaded nothing.
            token: None for one that has not logged in.
        """
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
        }
        environment |= {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",  # or the client would insist on it
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
        }
        if token is not None:
            environment["HF_TOKEN"] = token
        return environment

    def fail(self, operation: str, status: int | None = 500, times: int | None = 1) -> None:
        """Let something go wrong.

        Args:
            operation: "create", "preupload", "batch", "upload", "part", "verify", "commit", "resolve" or another
                method of the handler.
            status: Of the answers; None to drop the connection in the middle of the request's body.
            times: How often; None until [`HubServer.heal`].
        """
        self._faults[operation] = _Fault(status, times)

    def heal(self) -> None:
        """Let nothing go wrong any more."""
        self._faults.clear()

    def after(self, operation: str, call: Callable[[], object]) -> None:
        """Call something once, when an operation has succeeded and before its answer is sent."""
        self._calls[operation] = call

    # What tests look at

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Contents of the files of a revision by their paths; a repository begins with `.gitattributes`."""
        return {path: blob.data for path, blob in self.repos[repo_id].find(revision).files.items()}

    def lfs_files(self, repo_id: str, revision: str = "main") -> set[str]:
        """Paths of the files that are kept in LFS."""
        return {path for path, blob in self.repos[repo_id].find(revision).files.items() if blob.is_lfs}

    def commits(self, repo_id: str, revision: str = "main") -> list[Commit]:
        """Of a revision, the last one first."""
        commits, commit = [], self.repos[repo_id].find(revision)
        while commit is not None:
            commits.append(commit)
            commit = commit.parent
        return commits

    def operations(self) -> list[str]:
        """Names of all operations that the client asked for, in their order."""
        return [operation for operation, *_ in self.requests]

    # For the handler

    def fault(self, operation: str) -> _Fault | None:
        """The fault that happens now."""
        with self.lock:
            fault = self._faults.get(operation)
            if fault is None or fault.times == 0:
                return None
            if fault.times is not None:
                fault.times -= 1
            return fault

    def succeeded(self, operation: str) -> None:
        """Call what [`HubServer.after`] was given."""
        call = self._calls.pop(operation, None)
        if call is not None:
            call()


def check_card(content: str) -> list[str]:
    """What is wrong with the front matter of a card, after the rules of the Hub that can be checked offline."""
    match = re.match(r"---\r?\n(.*?)\r?\n---", content, re.DOTALL)
    if match is None:
        return []
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"bad YAML: {error}"]
    if not isinstance(data, dict):
        return ["the front matter must be a mapping"]
    repo_name = re.compile(r"(?:[\w.-]+/)?[\w.-]{1,96}")
    problems = []
    for key in ("tags", "language", "metrics", "datasets", "base_model"):
        values = data.get(key, [])
        values = values if isinstance(values, list) else [values]
        if not all(isinstance(value, str) for value in values):
            problems.append(f'"{key}" must be a string or a list of strings')
        elif key in ("datasets", "base_model") and not all(repo_name.fullmatch(value) for value in values):
            problems.append(f'"{key}" must name repositories of the Hub, got {values}')
    for key in ("license", "pipeline_tag", "library_name"):
        if key in data and not (isinstance(data[key], str) and re.fullmatch(r"[a-z0-9._-]+", data[key])):
            problems.append(f'"{key}" is not valid: {data[key]!r}')
    for model in data.get("model-index", []):
        for result in model.get("results", []):
            needed = [("task", "type"), ("dataset", "type"), ("dataset", "name")]
            problems += [f'"model-index": no {a}.{b}' for a, b in needed if not result.get(a, {}).get(b)]
            if not all({"type", "value"} <= metric.keys() for metric in result.get("metrics", [{}])):
                problems.append('"model-index": a metric needs a type and a value')
    return problems


class _Handler(BaseHTTPRequestHandler):
    """Answers requests."""

    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> HubServer:
        return self.server.hub

    def log_message(self, *arguments: object) -> None:
        """Nothing: the requests are recorded."""

    # Requests and answers

    def _handle(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        operation, groups = "unknown", {}
        for method, pattern, name in ROUTES:
            match = re.fullmatch(pattern, url.path)
            if match and method == ("GET" if self.command == "HEAD" else self.command):
                operation, groups = name, {k: v and unquote(v) for k, v in match.groupdict().items()}
                break
        fault = self.hub.fault(operation)
        if fault is not None and fault.status is None:
            self._drop(operation)
            return
        self.body = self._read_body()
        try:
            if fault is not None:
                message = {401: BAD_TOKEN, 403: NO_RIGHTS, 412: STALE}.get(fault.status, "Internal Error")
                raise HubError(fault.status, message)
            if operation == "unknown":
                raise HubError(404, f"Sorry, there is no {self.command} {url.path} here.")
            with self.hub.lock:
                answer = getattr(self, operation)(**groups)
                self.hub.succeeded(operation)
            status, content, headers = answer if isinstance(answer, tuple) else (200, answer, {})
        except HubError as error:
            status, content = error.status, {"error": error.message}
            headers = {"X-Error-Message": error.message}
            headers |= {"X-Error-Code": error.code} if error.code else {}
            headers |= {"X-Repo-Commit": error.commit} if error.commit else {}
        self.hub.requests.append((operation, url.path, status))
        self._answer(status, content, headers)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _drop(self, operation: str) -> None:
        """Read some of the body, then be gone."""
        self.rfile.read1(1024)
        self.hub.requests.append((operation, urlsplit(self.path).path, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, status: int, content: object, headers: dict[str, str]) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json; charset=utf-8"
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and status == 200 and isinstance(content, bytes):
            total, start = len(data), int(wanted[1])
            end = min(total, int(wanted[2]) + 1 if wanted[2] else total)
            if start >= total:
                status, data, headers = 416, b"", {**headers, "Content-Range": f"bytes */{total}"}
            else:
                headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{total}"}
                status, data = 206, data[start:end]
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # Who asks, and for what

    def _who(self) -> Token | None:
        word = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if word and word not in self.hub.tokens:
            raise HubError(401, BAD_TOKEN)
        return self.hub.tokens.get(word)

    def _repo(self, name: str, write: bool = False) -> Repo:
        who, repo = self._who(), self.hub.repos.get(name)
        is_owner = who is not None and name.split("/")[0] == who.user
        if repo is None or (repo.private and not is_owner):
            if who is None:
                raise HubError(401, "Invalid username or password.", None)
            raise HubError(404, "Repository not found", "RepoNotFound")
        if write:
            if who is None:
                raise HubError(401, "Invalid username or password.")
            if not is_owner:
                raise HubError(403, "Authorization error.")
            if who.role != "write":
                raise HubError(403, NO_RIGHTS)
        return repo

    # Operations

    def whoami(self) -> dict:
        who = self._who()
        if who is None:
            raise HubError(401, "Invalid username or password.")
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": who.role, "createdAt": DATE}}
        return {"type": "user", "id": who.user, "name": who.user, "fullname": who.user, "auth": auth, "orgs": []}

    def validate(self) -> object:
        content = json.loads(self.body)["content"]
        self.hub.cards.append(content)
        problems = check_card(content)
        empty = [] if content.startswith("---") else [{"message": "empty or missing yaml metadata in repo card"}]
        answer = {"errors": [{"message": problem} for problem in problems], "warnings": empty}
        return (400 if problems else 200, answer, {})

    def create(self) -> object:
        request, who = json.loads(self.body), self._who()
        if who is None:
            raise HubError(401, "Invalid username or password.")
        if request.get("type", "model") != "model":
            raise HubError(400, "This Hub has models only.")
        owner = request.get("organization") or who.user
        if owner != who.user or who.role != "write":
            raise HubError(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        name = f"{owner}/{request['name']}"
        url = f"{self.hub.url}/{name}"
        if name in self.hub.repos:
            return 409, {"error": "You already created this model repo", "url": url}, {}
        self.hub.create_repo(name, request.get("visibility") == "private" or request.get("private") is True)
        return {"url": url, "id": name, "name": name}

    def delete(self) -> object:
        request, who = json.loads(self.body), self._who()
        name = f"{request.get('organization') or (who.user if who else '')}/{request['name']}"
        self._repo(name, write=True)
        del self.hub.repos[name]
        return {}

    def info(self, repo: str, revision: str = "main") -> object:
        found = self._repo(repo)
        commit = found.find(revision)
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        if "blobs" in self.query:
            siblings = [{"rfilename": path, **self._blob_info(blob)} for path, blob in sorted(commit.files.items())]
        basics = {"_id": repo, "id": repo, "modelId": repo, "author": repo.split("/")[0], "sha": commit.sha}
        numbers = {"downloads": 0, "likes": 0, "createdAt": DATE, "lastModified": DATE, "gated": False}
        return {**basics, **numbers, "private": found.private, "disabled": False, "tags": [], "siblings": siblings}

    @staticmethod
    def _blob_info(blob: Blob) -> dict:
        lfs = {"sha256": blob.sha256, "size": len(blob.data), "pointerSize": 134}
        return {"size": len(blob.data), "blobId": blob.oid, **({"lfs": lfs} if blob.is_lfs else {})}

    def auth_check(self, repo: str, write: str | None) -> object:
        self._repo(repo, write=bool(write))
        return {}

    def tree(self, repo: str, revision: str, path: str | None = None) -> object:
        commit = self._repo(repo).find(revision)
        prefix = f"{path}/" if path else ""
        inside = {name: blob for name, blob in commit.files.items() if name.startswith(prefix)}
        if not inside:
            raise HubError(404, f"{path} does not exist on {revision!r}", "EntryNotFound", commit.sha)
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        entries, folders = [], set()
        for name, blob in sorted(inside.items()):
            parts = name.removeprefix(prefix).split("/")
            if len(parts) == 1 or recursive:
                entries.append(blob.describe(name))
            folders |= {
                prefix + "/".join(parts[:n]) for n in range(1, len(parts) if recursive else min(2, len(parts)))
            }
        empty = hashlib.sha1(b"").hexdigest()
        return [{"type": "directory", "path": name, "oid": empty, "size": 0} for name in sorted(folders)] + entries

    def paths_info(self, repo: str, revision: str) -> object:
        files = self._repo(repo).find(revision).files
        paths = parse_qs(self.body.decode()).get("paths", [])
        return [files[path].describe(path) for path in paths if path in files]

    def refs(self, repo: str) -> object:
        found = self._repo(repo)
        answer = {"converts": [], "pullRequests": []}
        for kind, prefix, names in (("branches", "heads", found.branches), ("tags", "tags", found.tags)):
            answer[kind] = [
                {"name": name, "ref": f"refs/{prefix}/{name}", "targetCommit": commit.sha}
                for name, commit in names.items()
            ]
        return answer

    def list_commits(self, repo: str, revision: str) -> object:
        self._repo(repo)
        return [
            {"id": c.sha, "title": c.title, "message": c.message, "date": DATE, "authors": [{"user": c.author}]}
            for c in self.hub.commits(repo, revision)
        ]

    def branch(self, repo: str, branch: str) -> object:
        found = self._repo(repo, write=True)
        if branch in found.branches:
            raise HubError(409, "Reference already exists")
        request = json.loads(self.body or b"{}")
        found.branches[branch] = found.find(request.get("startingPoint", "main"))
        return {}

    def tag(self, repo: str, revision: str) -> object:
        found, name = self._repo(repo, write=True), json.loads(self.body)["tag"]
        if name in found.tags:
            raise HubError(409, f"Tag reference exists already: {name}")
        found.tags[name] = found.find(revision)
        return {}

    def preupload(self, repo: str, revision: str) -> object:
        files = self._repo(repo, write=True).find(revision).files
        request = json.loads(self.body)
        ignore = request.get("gitIgnore")
        if ignore is None:
            ignore = files[".gitignore"].data.decode() if ".gitignore" in files else ""
        patterns = [line.strip().rstrip("/") for line in ignore.splitlines() if line.strip() and line[0] != "#"]

        def is_ignored(path: str) -> bool:
            parts = path.split("/")
            return any(
                fnmatch.fnmatch(parts[0], pattern[1:])
                if pattern.startswith("/")
                else any(fnmatch.fnmatch(part, pattern) for part in [path, *parts])
                for pattern in patterns
            )

        answers = []
        for file in request["files"]:
            path, there = file["path"], files.get(file["path"])
            is_lfs = path.endswith(LFS_SUFFIXES) or file["size"] > LFS_SIZE
            answer = {"path": path, "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": is_ignored(path)}
            if there is not None:
                answer["oid"] = there.sha256 if there.is_lfs else there.oid
            answers.append(answer)
        return {"files": answers, "commitOid": self.hub.repos[repo].find(revision).sha}

    def batch(self, repo: str) -> object:
        self._repo(repo, write=True)
        request, objects = json.loads(self.body), []
        base = f"{self.hub.url}/{repo}.git/info/lfs"
        for wanted in request["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            answer = {"oid": oid, "size": size, "authenticated": True}
            if oid not in self.hub.blobs:
                upload = {"href": f"{self.hub.storage_url}/{oid}", "header": {}}
                if size > self.hub.multipart_size and "multipart" in request["transfers"]:
                    count = -(-size // self.hub.multipart_size)
                    header = {str(n + 1): f"{self.hub.storage_url}/{oid}/{n + 1}" for n in range(count)}
                    header["chunk_size"] = str(self.hub.multipart_size)
                    upload = {"href": f"{base}/complete", "header": header}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{base}/verify", "header": {}}}
            objects.append(answer)
        return {"transfer": "basic", "objects": objects}

    def _store(self, oid: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != oid:
            raise HubError(400, "The content does not have the SHA-256 that was announced.")
        self.hub.blobs[oid] = data
        self.hub.uploads.append(oid)

    def upload(self, oid: str) -> object:
        self._store(oid, self.body)
        return b""

    def part(self, oid: str, number: str) -> object:
        self.hub.parts[oid, int(number)] = self.body
        return 200, b"", {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'}

    def complete(self, repo: str) -> object:
        request = json.loads(self.body)
        oid, parts = request["oid"], []
        for part in request["parts"]:
            data = self.hub.parts.get((oid, part["partNumber"]), b"")
            if part["etag"].strip('"') != hashlib.md5(data).hexdigest():
                raise HubError(400, "A part has another ETag.")
            parts.append(data)
        self._store(oid, b"".join(parts))
        return {}

    def verify(self, repo: str) -> object:
        self._repo(repo, write=True)
        request = json.loads(self.body)
        if len(self.hub.blobs.get(request["oid"], b"")) != request["size"]:
            raise HubError(404, "Object does not exist on the server")
        return {}

    def commit(self, repo: str, revision: str) -> object:
        found = self._repo(repo, write=True)
        if "create_pr" in self.query:
            raise HubError(400, "This Hub has no pull requests.")
        if revision not in found.branches:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        parent, header, files = found.branches[revision], {}, dict(found.branches[revision].files)
        for line in lines:
            kind, value = line["key"], line["value"]
            if kind == "header":
                header = value
                if not parent.sha.startswith(value.get("parentCommit", "")):
                    raise HubError(412, STALE)
            elif kind == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif kind == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    raise HubError(400, f"{value['path']}: LFS pointer to a file that does not exist")
                files[value["path"]] = Blob(self.hub.blobs[value["oid"]], True)
            elif kind == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
            elif kind == "deletedFolder":
                files = {path: blob for path, blob in files.items() if not path.startswith(value["path"])}
            else:
                raise HubError(400, f"What is {kind!r}?")
        problems = check_card(files["README.md"].data.decode()) if "README.md" in files else []
        if problems:
            raise HubError(400, "; ".join(problems))
        commit = found.add(revision, parent, header["summary"], header["description"], self._who().user, files)
        return {"success": True, "commitOid": commit.sha, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit.sha}"}

    def resolve(self, repo: str, revision: str, path: str) -> object:
        commit = self._repo(repo).find(revision)
        blob = commit.files.get(path)
        if blob is None:
            raise HubError(404, "Entry not found", "EntryNotFound", commit.sha)
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if not blob.is_lfs:
            return 200, blob.data, {**headers, "ETag": f'"{blob.oid}"'}
        linked = {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
        return 302, b"", {**headers, **linked, "Location": f"{self.hub.storage_url}/{blob.sha256}"}

    def download(self, oid: str) -> object:
        if "Authorization" in self.headers:
            raise HubError(400, "Tokens are none of the storage's business.")
        if oid not in self.hub.blobs:
            raise HubError(404, "No such object")
        return 200, self.hub.blobs[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"}


for _method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler._handle)  # http.server looks for these names
