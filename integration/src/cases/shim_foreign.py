"""Plays to windlass-shim what containerd 2.3 and 2.4 send, with messages that Google's protobuf library encodes from
the field numbers below: none of the project's own code takes part in them.

usage: shim_foreign.py SHIM RUNTIME ROOT BUNDLE BUNDLE DIRECTORY

The process of the first bundle ends with 7 on SIGTERM, the second one's sleeps. DIRECTORY is empty. The first call of
RUNTIME for the second bundle takes as long as a file `hang` is in DIRECTORY. Ends with 0 if all is as it must be.
"""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# Message: field: (number, type). A type in capitals is a message of this table, `*` before it means repeated.
MESSAGES = {
    "Any": {"type_url": (1, "string"), "value": (2, "bytes")},
    "Timestamp": {"seconds": (1, "int64"), "nanos": (2, "int32")},
    "KeyValue": {"key": (1, "string"), "value": (2, "string")},
    # ttrpc
    "Request": {"service": (1, "string"), "method": (2, "string"), "payload": (3, "bytes"), "timeout_nano": (4, "int64"),
                "metadata": (5, "*KeyValue")},
    "Status": {"code": (1, "int32"), "message": (2, "string")},
    "Response": {"status": (1, "Status"), "payload": (2, "bytes")},
    # containerd.runtime.bootstrap.v1
    "Extension": {"value": (1, "Any")},
    "BootstrapParams": {"instance_id": (1, "string"), "namespace": (2, "string"), "log_level": (3, "int32"),
                        "containerd_version": (4, "string"), "containerd_ttrpc_address": (5, "string"),
                        "containerd_grpc_address": (6, "string"), "containerd_binary": (7, "string"),
                        "extensions": (8, "*Extension"), "socket_dir": (9, "string")},
    "BootstrapResult": {"version": (1, "int32"), "address": (2, "string"), "protocol": (3, "string"),
                        "metadata": (5, "*KeyValue")},
    # containerd.runc.v1
    "Options": {"binary_name": (6, "string"), "root": (7, "string"), "systemd_cgroup": (9, "bool")},
    # containerd.task.v3
    "CreateTaskRequest": {"id": (1, "string"), "bundle": (2, "string"), "terminal": (4, "bool"), "stdin": (5, "string"),
                          "stdout": (6, "string"), "stderr": (7, "string"), "options": (10, "Any")},
    "CreateTaskResponse": {"pid": (1, "uint32")},
    "IdRequest": {"id": (1, "string"), "exec_id": (2, "string")},
    "ConnectResponse": {"shim_pid": (1, "uint32"), "task_pid": (2, "uint32"), "version": (3, "string")},
    "StateResponse": {"id": (1, "string"), "bundle": (2, "string"), "pid": (3, "uint32"), "status": (4, "int32"),
                      "stdout": (6, "string"), "exit_status": (9, "uint32"), "exited_at": (10, "Timestamp"),
                      "exec_id": (11, "string")},
    "KillRequest": {"id": (1, "string"), "exec_id": (2, "string"), "signal": (3, "uint32"), "all": (4, "bool")},
    "WaitResponse": {"exit_status": (1, "uint32"), "exited_at": (2, "Timestamp")},
    "DeleteResponse": {"pid": (1, "uint32"), "exit_status": (2, "uint32"), "exited_at": (3, "Timestamp")},
    "ExecProcessRequest": {"id": (1, "string"), "exec_id": (2, "string"), "terminal": (3, "bool"), "stdin": (4, "string"),
                           "stdout": (5, "string"), "stderr": (6, "string"), "spec": (7, "Any")},
    "StatsResponse": {"stats": (1, "Any")},
    "ShutdownRequest": {"id": (1, "string"), "now": (2, "bool")},
    # io.containerd.cgroups.v2
    "PsiData": {"avg10": (1, "double"), "avg60": (2, "double"), "avg300": (3, "double"), "total": (4, "uint64")},
    "PsiStats": {"some": (1, "PsiData"), "full": (2, "PsiData")},
    "PidsStat": {"current": (1, "uint64"), "limit": (2, "uint64")},
    "CpuStat": {"usage_usec": (1, "uint64"), "user_usec": (2, "uint64"), "system_usec": (3, "uint64"),
                "nr_periods": (4, "uint64"), "nr_throttled": (5, "uint64"), "throttled_usec": (6, "uint64"),
                "psi": (7, "PsiStats"), "nr_bursts": (8, "uint64"), "burst_usec": (9, "uint64")},
    "MemoryStat": {"anon": (1, "uint64"), "file": (2, "uint64"), "usage": (32, "uint64"), "usage_limit": (33, "uint64"),
                   "psi": (38, "PsiStats")},
    "IoStat": {"psi": (2, "PsiStats")},
    "MemoryEvents": {"low": (1, "uint64"), "high": (2, "uint64"), "max": (3, "uint64"), "oom": (4, "uint64"),
                     "oom_kill": (5, "uint64"), "oom_group_kill": (6, "uint64")},
    "Metrics": {"pids": (1, "PidsStat"), "cpu": (2, "CpuStat"), "memory": (4, "MemoryStat"), "io": (6, "IoStat"),
                "memory_events": (8, "MemoryEvents")},
    # containerd.services.events.ttrpc.v1, containerd.events
    "Envelope": {"timestamp": (1, "Timestamp"), "namespace": (2, "string"), "topic": (3, "string"), "event": (4, "Any")},
    "ForwardRequest": {"envelope": (1, "Envelope")},
    "TaskExit": {"container_id": (1, "string"), "id": (2, "string"), "pid": (3, "uint32"), "exit_status": (4, "uint32"),
                 "exited_at": (5, "Timestamp")},
}

RUNNING, STOPPED = 2, 3
NOT_FOUND = 5


def classes():
    """A class for each message of the table."""
    file = descriptor_pb2.FileDescriptorProto(name="foreign.proto", package="foreign", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            repeated, kind = kind.startswith("*"), kind.lstrip("*")
            one = message.field.add(name=field, number=number)
            one.label = one.LABEL_REPEATED if repeated else one.LABEL_OPTIONAL
            if kind in MESSAGES:
                one.type, one.type_name = one.TYPE_MESSAGE, ".foreign." + kind
            else:
                one.type = getattr(one, "TYPE_" + kind.upper())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    make = getattr(message_factory, "GetMessageClass", None) or message_factory.MessageFactory(pool).GetPrototype
    return {name: make(pool.FindMessageTypeByName("foreign." + name)) for name in MESSAGES}


M = classes()


def new(name, **fields):
    return M[name](**fields)


def check(holds, what):
    if not holds:
        sys.exit(f"wrong: {what}")


def read_all(connection, count):
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def read_frame(connection):
    length, stream, kind, _ = struct.unpack(">IIBB", read_all(connection, 10))
    return stream, kind, read_all(connection, length)


def write_frame(connection, stream, kind, data):
    connection.sendall(struct.pack(">IIBB", len(data), stream, kind, 0) + data)


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


class Client:
    """One connection, whose calls wait for each other's answers only where they must."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.settimeout(30)
        self.next, self.answers = 1, {}

    def send(self, method, request, service="containerd.task.v3.Task"):
        stream, self.next = self.next, self.next + 2
        message = new("Request", service=service, method=method, payload=request.SerializeToString(),
                      timeout_nano=20_000_000_000)
        # containerd sends such a pair with each call.
        message.metadata.add(key="containerd-namespace-ttrpc", value="ns")
        write_frame(self.socket, stream, 1, message.SerializeToString())
        return stream

    def receive(self, stream, answer):
        while stream not in self.answers:
            number, kind, data = read_frame(self.socket)
            check(kind == 2, f"a frame of kind {kind}")
            self.answers[number] = M["Response"].FromString(data)
        response = self.answers.pop(stream)
        if response.status.code:
            raise Refused(response.status.code, response.status.message)
        return M[answer].FromString(response.payload) if answer else None

    def call(self, method, request, answer=None):
        return self.receive(self.send(method, request), answer)


class Events(threading.Thread):
    """containerd's side of events."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(path)
        self.server.listen()
        self.seen = []

    def run(self):
        while True:
            threading.Thread(target=self.serve, args=(self.server.accept()[0],), daemon=True).start()

    def serve(self, connection):
        try:
            while True:
                stream, _, data = read_frame(connection)
                request = M["Request"].FromString(data)
                envelope = M["ForwardRequest"].FromString(request.payload).envelope
                self.seen.append((envelope.topic, envelope.namespace, envelope.event))
                write_frame(connection, stream, 2, new("Response").SerializeToString())
        except (EOFError, OSError):
            pass

    def until(self, count):
        end = time.monotonic() + 20
        while len(self.seen) < count:
            check(time.monotonic() < end, f"{count} events: {[topic for topic, _, _ in self.seen]}")
            time.sleep(0.01)


def start(shim, bundle, task, params, address):
    """`start` as containerd calls it; the address that it answers."""
    words = ["-namespace", "ns", "-address", address, "-publish-binary", "/usr/bin/containerd", "-id", task, "start"]
    environment = dict(os.environ, TTRPC_ADDRESS=params.containerd_ttrpc_address, GRPC_ADDRESS=address,
                       NAMESPACE="ns", MAX_SHIM_VERSION="3", CONTAINERD_SHIM_RUNC_V2="1")
    done = subprocess.run(["containerd-shim-windlass-v2", *words], executable=shim, cwd=bundle, env=environment,
                          input=params.SerializeToString(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    check(done.returncode == 0, f"start: {done}")
    result = M["BootstrapResult"].FromString(done.stdout)
    check(result.SerializeToString() == done.stdout, f"more than the message: {done.stdout}")
    check((result.version, result.protocol) == (3, "ttrpc"), f"the answer of start: {result}")
    check(result.address.startswith("unix:///"), f"the address: {result.address}")
    return result.address


def eventually(what, holds):
    end = time.monotonic() + 20
    while not holds():
        check(time.monotonic() < end, what)
        time.sleep(0.01)


def main():
    shim, runtime, root, first, second, directory = sys.argv[1:]
    events = Events(directory + "/events")
    events.start()
    options = new("Any", type_url="containerd.runc.v1.Options",
                  value=new("Options", binary_name=runtime, root=root).SerializeToString())
    params = new("BootstrapParams", namespace="ns", log_level=-4, containerd_version="2.4.0",
                 containerd_ttrpc_address=directory + "/events", containerd_grpc_address=directory + "/grpc",
                 containerd_binary="/usr/bin/containerd", socket_dir=directory + "/s")
    params.extensions.add(value=options)
    addresses = []
    for task, bundle in (("pod", first), ("other", second)):
        params.instance_id = task
        addresses.append(start(shim, bundle, task, params, directory + "/grpc"))
    check(addresses[0] == addresses[1], f"one shim for a pod: {addresses}")
    path = addresses[0].removeprefix("unix://")
    client = Client(path)

    def create(task, bundle):
        return new("CreateTaskRequest", id=task, bundle=bundle, stdout=directory + "/" + task, options=options)

    for task in ("pod", "other"):
        os.mkfifo(directory + "/" + task)
    output = os.open(directory + "/pod", os.O_RDONLY | os.O_NONBLOCK)

    # One task from its begin to its end.
    pod = new("IdRequest", id="pod")
    pid = client.call("Create", create("pod", first), "CreateTaskResponse").pid
    check(client.call("Start", pod, "CreateTaskResponse").pid == pid, "the pid of Start")
    connected = client.call("Connect", new("IdRequest", id="pod"), "ConnectResponse")
    check(connected.task_pid == pid and connected.shim_pid > 1, f"Connect: {connected}")
    state = client.call("State", pod, "StateResponse")
    check((state.status, state.pid, state.bundle) == (RUNNING, pid, first), f"State: {state}")
    statistics(client)

    # A create that hangs: State of it and of the other has two seconds.
    open(directory + "/hang", "w", encoding="ascii").close()
    pending = client.send("Create", create("other", second))
    time.sleep(0.5)
    asked = Client(path)
    for other in (asked, client):
        for task in ("pod", "other"):
            begun = time.monotonic()
            try:
                said = other.call("State", new("IdRequest", id=task), "StateResponse")
                check(task == "other" or said.status == RUNNING, f"State while a create hangs: {said}")
            except Refused as refused:
                check(task == "other" and refused.code == NOT_FOUND, f"State while a create hangs: {refused}")
            check(time.monotonic() - begun < 2, f"State of {task} took {time.monotonic() - begun} s")
    check(os.path.exists(directory + "/hang-seen"), "the runtime did not hang")
    os.unlink(directory + "/hang")
    other_pid = client.receive(pending, "CreateTaskResponse").pid
    other = new("IdRequest", id="other")
    client.call("Start", other, "CreateTaskResponse")

    # The end of the first; Shutdown after its delete ends no shim that has another.
    waiting = client.send("Wait", pod)
    client.call("Kill", new("KillRequest", id="pod", signal=signal.SIGTERM))
    check(client.receive(waiting, "WaitResponse").exit_status == 7, "the code of Wait")
    deleted = client.call("Delete", pod, "DeleteResponse")
    check((deleted.exit_status, deleted.pid) == (7, pid) and deleted.exited_at.seconds > 0, f"Delete: {deleted}")
    client.call("Shutdown", new("ShutdownRequest", id="pod"))
    check(client.call("State", other, "StateResponse").status == RUNNING, "the other after Shutdown")
    check(b"ready" in os.read(output, 100), "the output of the first")

    # An exec, its own end.
    spec = new("Any", type_url="types.containerd.io/opencontainers/runtime-spec/1/Process",
               value=b'{"cwd": "/", "args": ["/bin/sh", "-c", "exit 5"], "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}')
    client.call("Exec", new("ExecProcessRequest", id="other", exec_id="e", spec=spec))
    executed = new("IdRequest", id="other", exec_id="e")
    client.call("Start", executed, "CreateTaskResponse")
    check(client.call("Wait", executed, "WaitResponse").exit_status == 5, "the code of the exec")
    check(client.call("Delete", executed, "DeleteResponse").exit_status == 5, "Delete of the exec")
    client.call("Shutdown", new("ShutdownRequest", id="other"))
    check(client.call("State", other, "StateResponse").pid == other_pid, "the task after Shutdown")

    # The last one: now the shim goes.
    client.call("Kill", new("KillRequest", id="other", signal=signal.SIGKILL))
    check(client.call("Wait", other, "WaitResponse").exit_status == 137, "the code of a kill")
    client.call("Delete", other, "DeleteResponse")
    client.call("Shutdown", new("ShutdownRequest", id="other"))
    eventually("the end of the shim", lambda: not os.path.exists(path))
    events.until(11)
    told(events.seen, pid)


def statistics(client):
    answer = client.call("Stats", new("IdRequest", id="pod"), "StatsResponse").stats
    check(answer.type_url.endswith("io.containerd.cgroups.v2.Metrics"), f"the type of statistics: {answer.type_url}")
    metrics = M["Metrics"].FromString(answer.value)
    check(metrics.cpu.usage_usec > 0, f"the time that was used: {metrics}")
    # A reader of containerd 2.4 takes an absent message for "not measured".
    group = subprocess.run(["cat", "/sys/fs/cgroup/cgroup.controllers"], stdout=subprocess.PIPE, check=False).stdout.split()
    check(metrics.HasField("memory_events") == (b"memory" in group), f"events of memory: {metrics}")
    if os.path.exists("/proc/pressure/cpu"):
        check(metrics.cpu.HasField("psi") and metrics.cpu.psi.HasField("some"), f"pressure: {metrics}")


def told(seen, pid):
    """Each task's events, in their order and once."""
    topics = [topic for topic, _, _ in seen]
    check(all(namespace == "ns" for _, namespace, _ in seen), f"the namespaces of events: {seen}")
    check(topics == ["/tasks/create", "/tasks/start", "/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete",
                     "/tasks/exec-added", "/tasks/exec-started", "/tasks/exit", "/tasks/exit", "/tasks/delete"],
          f"the events: {topics}")
    exits = [M["TaskExit"].FromString(event.value) for topic, _, event in seen if topic == "/tasks/exit"]
    check([(one.container_id, one.id, one.exit_status) for one in exits]
          == [("pod", "pod", 7), ("other", "e", 5), ("other", "other", 137)] and exits[0].pid == pid, f"the exits: {exits}")


main()
