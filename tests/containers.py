"""The services of docker-compose.yml in real containers, without an engine: crun in namespaces.

What confines a container is read from the composed file and from the Dockerfile; what an engine
adds by itself (default capabilities, masked paths, options of a tmpfs) is written down here. The
image is imitated: a root folder of few files, into which this machine's /usr, the virtual
environment and the project are bound read-only. Not imitated: limits on resources, and the engine's
filter of system calls, so that less confines the services here than in production.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("crun", "ip", "nsenter", "setpriv", "unshare")
SUBNET = "10.89.231"
UNSHARE = ("unshare", "--mount", "--propagation", "private", "--pid", "--net", "--ipc",
           "--fork", "--kill-child=KILL", "--mount-proc")  # fmt: skip
# No cgroups: crun refuses some layouts of them, and nothing is limited here.
POD_SETUP = (
    "mount -t tmpfs none /sys/fs/cgroup && mount -t tmpfs none /run && mkdir /run/netns"
    " && ip link add pod0 type bridge && ip link set lo up"
    f" && ip addr add {SUBNET}.1/24 dev pod0 && ip link set pod0 up"
)
# What Docker grants by default: a cap_drop that is missing must show.
DEFAULT_CAPABILITIES = (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
    "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
)  # fmt: skip
MASKED = [f"/proc/{name}" for name in ("acpi", "asound", "kcore", "keys", "latency_stats",
          "sched_debug", "scsi", "timer_list", "timer_stats")] + ["/sys/firmware"]  # fmt: skip
READ_ONLY = [f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger")]
SYSTEM_MOUNTS = (
    ("/proc", "proc", "nosuid,noexec,nodev"),
    ("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/dev/shm", "tmpfs", "nosuid,noexec,nodev,mode=1777,size=65536k"),
    ("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "nosuid,noexec,nodev,ro"),
)


def why_not() -> str:
    """Why no container can run here; empty where one can. It is tried, not guessed."""
    if os.geteuid() != 0:
        return "containers need root here: mounts and namespaces are made by hand"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: crun, iproute2, util-linux)"
    tried = subprocess.run([*UNSHARE, "sh", "-c", POD_SETUP], capture_output=True, text=True)
    return f"namespaces are refused here: {tried.stderr.strip()}" if tried.returncode else ""


@dataclass(frozen=True)
class Image:
    """What an image brings along; `folders` are those it gives to a user, by path."""

    user: str
    uid: int
    workdir: str
    venv: Path
    env: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, int] = field(default_factory=dict)
    command: tuple[str, ...] = ()

    @classmethod
    def of_dockerfile(cls, dockerfile: Path, venv: Path) -> Self:
        """The facts of a Dockerfile that matter to a running container."""
        text = dockerfile.read_text(encoding="utf-8").replace("\\\n", " ")
        users = {"root": 0} | {
            name: int(uid) for uid, name in re.findall(r"useradd .*--uid (\d+) (\w+)", text)
        }
        words: dict[str, str] = {"USER": "root", "WORKDIR": "/"}
        env: dict[str, str] = {}
        for line in text.splitlines():
            word, _, rest = line.partition(" ")
            words[word] = rest.strip()
            if word == "ENV":
                env |= dict(item.split("=", 1) for item in shlex.split(rest))
        folders = {
            folder: users[owner]
            for owner, found in re.findall(r"chown (\w+):\w+((?: +/\S+)+)", text)
            for folder in found.split()
        }
        return cls(words["USER"], users[words["USER"]], words["WORKDIR"], venv, env, folders)


def make_root(root: Path, image: Image, hosts: Mapping[str, str]) -> None:
    """The image's own files, passable for everybody whatever our umask is."""
    home = f"home/{image.user}"
    owned = {**image.folders, f"/{home}": image.uid}
    for name in ("usr", "etc/ssl", "proc", "dev", "sys", "tmp", "run", "var/tmp", image.workdir,
                 *owned):  # fmt: skip
        (root / name.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    names = "".join(f"{address} {name}\n" for name, address in hosts.items())
    files = {
        "passwd": f"root:x:0:0::/root:/bin/sh\n{image.user}:x:{image.uid}:{image.uid}::/{home}:\n",
        "group": f"root:x:0:\n{image.user}:x:{image.uid}:\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        "hosts": f"127.0.0.1 localhost\n{names}",
    }
    for name, text in files.items():
        (root / "etc" / name).write_text(text)
    if Path("/etc/ld.so.cache").exists():
        shutil.copyfile("/etc/ld.so.cache", root / "etc/ld.so.cache")
    for path in (root, *(p for p in root.rglob("*") if not p.is_symlink())):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    for name, uid in owned.items():
        os.chown(root / name.lstrip("/"), uid, uid)


def oci_config(
    name: str, service: Mapping[str, Any], image: Image, root: Path, volumes: Path, netns: str
) -> dict[str, Any]:
    """The runtime's configuration of a service of the composed file."""
    dropped = service.get("cap_drop") or []
    granted = [c for c in DEFAULT_CAPABILITIES if "ALL" not in dropped and c not in dropped]
    bounding = [f"CAP_{c}" for c in granted + (service.get("cap_add") or [])]
    user = str(service.get("user", image.user))
    uid = {"root": 0, image.user: image.uid}.get(user) if not user.isdigit() else int(user)
    effective = bounding if uid == 0 else []
    env = {
        "PATH": f"{image.venv}/bin:/usr/local/bin:/usr/bin:/bin",
        "HOSTNAME": name,
        "HOME": f"/home/{image.user}" if uid == image.uid else "/root",
        **image.env,
        **service["environment"],
    }
    return {
        "ociVersion": "1.0.0",
        "process": {
            "user": {"uid": uid, "gid": uid, "umask": 0o022},
            "args": list(service.get("command") or image.command),
            "env": [f"{key}={value}" for key, value in env.items()],
            "cwd": image.workdir,
            "capabilities": {"bounding": bounding, "effective": effective, "permitted": effective},
            "noNewPrivileges": "no-new-privileges:true" in (service.get("security_opt") or []),
        },
        "root": {"path": str(root), "readonly": bool(service.get("read_only"))},
        "hostname": name,
        "mounts": _mounts(service, image, volumes),
        "linux": {
            "namespaces": [*({"type": kind} for kind in ("pid", "mount", "ipc", "uts")),
                           {"type": "network", "path": netns}],
            "maskedPaths": MASKED, "readonlyPaths": READ_ONLY, "rootfsPropagation": "rprivate",
        },
    }  # fmt: skip


def _mounts(service: Mapping[str, Any], image: Image, volumes: Path) -> list[dict[str, Any]]:
    found = [_mount(where, kind, kind, options) for where, kind, options in SYSTEM_MOUNTS]
    for entry in service.get("tmpfs") or []:
        where, _, options = entry.partition(":")
        docker = "nosuid,nodev,noexec,mode=1777"
        found.append(_mount(where, "tmpfs", "tmpfs", f"{docker},{options}".rstrip(",")))
    # After the tmpfs, for these may lie below one.
    interpreter = (image.venv / "bin/python").resolve().parent.parent
    for folder in dict.fromkeys((Path("/usr"), Path("/etc/ssl"), interpreter, ROOT)):
        if folder == Path("/usr") or not folder.is_relative_to("/usr"):
            found.append(_mount(str(folder), "bind", str(folder), "rbind,rprivate,ro,nosuid,nodev"))
    for source, where, mode in volumes_of(service):
        found.append(_mount(where, "bind", str(volumes / source), f"rbind,rprivate,{mode}"))
    return found


def _mount(where: str, kind: str, source: str, options: str) -> dict[str, Any]:
    return {"destination": where, "type": kind, "source": source, "options": options.split(",")}


def volumes_of(service: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, place and mode; the two generations of compose print them differently."""
    found = []
    for entry in service.get("volumes") or []:
        if isinstance(entry, str):
            source, where, *mode = entry.split(":")
            found.append((source, where, mode[0] if mode else "rw"))
        else:
            access = "ro" if entry.get("read_only") else "rw"
            found.append((entry["source"], entry["target"], access))
    return found


class Pod:
    """Namespaces in which everything runs: mounts, processes, network. They end with the tests.

    The kernel kills `unshare` when the thread that started it ends, however it ends; with it goes
    process 1 of the inner namespace, and with that all that runs, is mounted or connected in there.
    """

    def __init__(self, log: Path) -> None:
        self.addresses: dict[str, str] = {}
        command = ["setpriv", "--pdeathsig", "KILL", "--", *UNSHARE, "sh", "-c",
                   f"{POD_SETUP} && echo ready && exec sleep infinity"]  # fmt: skip
        with log.open("wb") as errors:
            self._holder = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
            )
        assert self._holder.stdout is not None
        with self._holder.stdout as said:
            ready = said.readline() == b"ready\n"
        if not ready:
            self.close()
            raise AssertionError(f"no namespaces: {log.read_text()}")
        pid = self._holder.pid
        (self._inner,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    def command(self, *command: str) -> list[str]:
        """A command in these namespaces."""
        return ["nsenter", "--target", self._inner, "--mount", "--pid", "--net", "--ipc", "--",
                *command]  # fmt: skip

    def connect(self, name: str) -> str:
        """A network namespace on the bridge, as compose gives to each service; its path."""
        n = len(self.addresses)
        self.addresses[name] = address = f"{SUBNET}.{n + 2}"
        script = (
            f"ip netns add {name} && ip link add p{n} type veth peer name eth0 netns {name}"
            f" && ip link set p{n} master pod0 up && ip -n {name} link set lo up"
            f" && ip -n {name} addr add {address}/24 dev eth0 && ip -n {name} link set eth0 up"
        )
        done = subprocess.run(self.command("sh", "-c", script), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return f"/run/netns/{name}"

    def close(self) -> None:
        """Kill all that runs in here."""
        self._holder.kill()
        self._holder.wait()


class Container:
    """One container, in the foreground of a child of ours."""

    def __init__(self, pod: Pod, name: str, bundle: Path, config: dict[str, Any]) -> None:
        self.name, self._pod, self._bundle = name, pod, bundle
        self._process = config["process"]
        (bundle / "config.json").write_text(json.dumps(config))
        self._log = bundle / "log"
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                self._runtime("run", "--bundle", str(bundle), name),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def _runtime(self, *args: str) -> list[str]:
        # From within the pod: the runtime notes process ids of its own namespace. The umask: it
        # makes the places that are mounted to.
        options = ("--root", str(self._bundle / "state"), "--cgroup-manager", "disabled")
        return self._pod.command("sh", "-c", 'umask 022; exec crun "$@"', "sh", *options, *args)

    @property
    def log(self) -> str:
        """What the service has written."""
        return self._log.read_text(errors="replace")

    def exec(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        """As `docker compose exec` and health checks: confined like the service itself."""
        more = [f"{key}={value}" for key, value in env.items()]
        process = {**self._process, "args": list(args), "env": [*self._process["env"], *more]}
        path = self._bundle / "exec.json"
        path.write_text(json.dumps(process))
        command = self._runtime("exec", "--process", str(path), self.name)
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def wait_healthy(self, check: list[str], timeout_s: float = 120.0) -> None:
        """Until the health check passes; the failure quotes the service's log."""
        deadline = time.monotonic() + timeout_s
        while (done := self.exec(*check)).returncode:
            assert self._child.poll() is None, f"{self.name} has ended\n{self.log}"
            assert time.monotonic() < deadline, f"{self.name}: {done.stderr}\n{self.log}"
            time.sleep(0.5)

    def wait(self) -> int:
        """Until it has ended; the exit code."""
        return self._child.wait(timeout=10)

    def stop(self) -> int:
        """As `docker stop`: SIGTERM to process 1, SIGKILL ten seconds later; the exit code."""
        for signal_name in ("TERM", "KILL"):
            subprocess.run(self._runtime("kill", self.name, signal_name), capture_output=True)
            try:
                return self.wait()
            except subprocess.TimeoutExpired:
                continue
        raise AssertionError(f"{self.name} cannot be killed")
