#!/bin/bash
# What a runtime must do with --systemd-cgroup. Runs in the guest, as root:
#   cases.sh RUNTIME [PATTERN]
# runs those whose names have the extended regular expression PATTERN in them. Each case is a function whose name is a
# sentence. Each runs with the system's systemd, and those of `both` with a user's as well. A case that prints something
# fails, and that is the reason. Prints a line for each case.
set -u
rt=$1
ours=$(basename "$rt")
work=/run/cases
failed=0

# --- the guest, once ---
if [ "${2:-}" != inside ]; then
    pattern=${2:-.}
    mkdir -p $work
    cp "$0" $work/cases.sh
    rt=$(command -v "$rt" || echo "$rt")
    cp -a "$rt" $work/"$ours"
    [ ! -e "$(dirname "$rt")/windlass-shim" ] || cp -a "$(dirname "$rt")/windlass-shim" $work/
    for user in user alone; do
        loginctl enable-linger $user
        until [ -S "/run/user/$(id -u $user)/bus" ]; do sleep 0.2; done
    done
    # Debian's kernel for User-Mode Linux has no cpuset; io is there, and not delegated to users.
    bash $work/cases.sh $work/"$ours" inside root "$pattern"
    failed=$?
    su user -c "XDG_RUNTIME_DIR=/run/user/1000 bash $work/cases.sh $work/$ours inside user '$pattern'"
    exit $((failed + $?))
fi

# --- one user ---
whose=$3
home=$HOME/cases
if [ "$whose" = root ]; then
    systemctl() { command systemctl "$@"; }
    top=/sys/fs/cgroup
    slice=system.slice
else
    systemctl() { command systemctl --user "$@"; }
    top=/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service
    slice=user.slice
fi

runtime() { "$rt" --root "$home/state" --systemd-cgroup "$@"; }

# bundle JQ-FILTER: writes the configuration of the next container.
bundle() { jq "$1" "$home/base.json" >"$home/bundle/config.json"; }

# up ID [JQ-FILTER]: a container that sleeps, in the scope test-ID.
up() {
    bundle ".process.args=[\"sleep\",\"1000\"]|.linux.cgroupsPath=\"$slice:test:$1\"|${2:-.}"
    (cd "$home/bundle" && runtime run -d "$1" </dev/null >"$home/out" 2>&1) || { cat "$home/out"; return 1; }
}

# of ID: the directory of its cgroup.
of() { echo "$top/$slice/test-$1.scope"; }

property() { systemctl show --property "$2" --value "test-$1.scope"; }

version() { systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p'; }

is() { [ "$1" = "$2" ] || echo "${3:-it} is $1, not $2"; }

gone() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ ! -e "$(of "$1")" ] && [ "$(systemctl is-active "test-$1.scope")" = inactive ] && return
        sleep 0.2
    done
    echo "the scope is still there: $(systemctl is-active "test-$1.scope")"
}

# --- cases of both ---

every_verb_works_in_a_scope() {
    bundle ".process.args=[\"sleep\",\"1000\"]|.linux.cgroupsPath=\"$slice:test:v\""
    (cd "$home/bundle" && runtime create v </dev/null >"$home/out" 2>&1) || { cat "$home/out"; return; }
    is "$(runtime state v | jq -r .status)" created
    runtime start v
    is "$(runtime state v | jq -r .status)" running
    runtime list -q | grep -qx v || echo "list does not have it"
    is "$(runtime ps --format json v | jq ".[0]")" "$(runtime state v | jq .pid)" "the process that ps shows"
    is "$(runtime exec v echo hello)" hello "exec's output"
    runtime pause v
    is "$(runtime state v | jq -r .status)" paused
    is "$(grep -c 'frozen 1' "$(of v)/cgroup.events")" 1 frozen
    runtime resume v
    runtime update --pids-limit 77 v
    is "$(cat "$(of v)/pids.max")" 77 pids.max
    runtime kill v KILL
    for _ in 1 2 3 4 5; do [ "$(runtime state v | jq -r .status)" = stopped ] || sleep 0.2; done
    runtime delete v || echo "delete failed"
    gone v
    runtime state v >/dev/null 2>&1 && echo "its state is still there"
}

the_process_is_in_the_scope_and_the_scope_is_delegated() {
    up p || return
    is "$(sed -n s/^0:://p "/proc/$(runtime state p | jq .pid)/cgroup")" "$(of p | sed s,^/sys/fs/cgroup,,)" cgroup
    is "$(property p Delegate)" yes Delegate
    is "$(property p Slice)" "$slice" Slice
}

a_run_in_the_foreground_leaves_nothing() {
    bundle ".process.args=[\"sh\",\"-c\",\"exit 7\"]|.linux.cgroupsPath=\"$slice:test:f\""
    (cd "$home/bundle" && runtime run f </dev/null >/dev/null 2>&1)
    is $? 7 "its exit code"
    gone f
}

# `run` fails before, while or after systemd makes the scope.
a_create_that_fails_leaves_no_scope() {
    bundle ".linux.cgroupsPath=\"$slice:test:bad\"|.mounts=[{destination:\"/mnt\",type:\"nosuch\",source:\"none\"}]+.mounts"
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        (cd "$home/bundle" && runtime run bad </dev/null >"$home/out" 2>&1) && echo "it ran"
        grep -q nosuch "$home/out" || cat "$home/out"
    done
    gone bad
}

a_memory_limit_kills() {
    bundle ".process.args=[\"sh\",\"-c\",\"tail /dev/zero\"]|.linux.cgroupsPath=\"$slice:test:m\"|
        .linux.resources.memory={limit:16777216,swap:16777216}"
    (cd "$home/bundle" && timeout 60 "$rt" --root "$home/state" --systemd-cgroup run m </dev/null >/dev/null 2>&1)
    is $? 137 "its exit code"
    gone m
}

a_limit_of_tasks_holds() {
    up t '.linux.resources.pids={limit:5}' || return
    is "$(cat "$(of t)/pids.max")" 5 pids.max
    is "$(property t TasksMax)" 5 TasksMax
    runtime exec t sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 5 & done' >/dev/null 2>&1
    [ "$(sed -n 's/^max //p' "$(of t)/pids.events")" -gt 0 ] || echo "no fork was refused"
}

cpu_time_is_throttled() {
    bundle ".process.args=[\"sh\",\"-c\",\"while :; do :; done\"]|.linux.cgroupsPath=\"$slice:test:c\"|
        .linux.resources.cpu={quota:10000,period:100000,shares:512}"
    (cd "$home/bundle" && runtime run -d c </dev/null >"$home/out" 2>&1) || { cat "$home/out"; return; }
    is "$(cat "$(of c)/cpu.max")" "10000 100000" cpu.max
    is "$(property c CPUQuotaPerSecUSec)" 100ms CPUQuotaPerSecUSec
    sleep 1.5
    [ "$(sed -n 's/^nr_throttled //p' "$(of c)/cpu.stat")" -gt 3 ] || echo "it was not throttled"
}

update_changes_the_unit_and_the_cgroup() {
    up u '.linux.resources.memory={limit:33554432}' || return
    runtime update --memory 67108864 --memory-swap 67108864 u || echo "update failed"
    is "$(cat "$(of u)/memory.max")" 67108864 memory.max
    is "$(property u MemoryMax)" 67108864 MemoryMax
}

# systemd compares the order in which it wrote the drop-ins of a unit with that of their names. Where they differ,
# `systemctl status` asks for a daemon-reload until there was one.
an_update_leaves_no_need_of_a_daemon_reload() {
    up n || return
    is "$(property n NeedDaemonReload)" no "NeedDaemonReload before"
    echo '{"pids":{"limit":11},"memory":{"limit":67108864},"cpu":{"shares":512,"quota":20000,"period":100000},
        "devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}]}' |
        runtime update --resources - n || echo "update failed"
    is "$(property n MemoryMax)" 67108864 MemoryMax
    is "$(property n NeedDaemonReload)" no "NeedDaemonReload after an update"
}

limits_survive_a_daemon_reload() {
    up d '.linux.resources={memory:{limit:33554432},pids:{limit:9},cpu:{quota:20000,period:100000}}' || return
    runtime update --pids-limit 11 d
    systemctl daemon-reload
    is "$(cat "$(of d)/memory.max")" 33554432 memory.max
    is "$(cat "$(of d)/pids.max")" 11 pids.max
    is "$(cat "$(of d)/cpu.max")" "20000 100000" cpu.max
    is "$(runtime exec d echo there)" there "exec's output"
}

a_property_of_an_annotation_is_set() {
    up a '.annotations={"org.systemd.property.TimeoutStopSec":"uint64 7"}' || return
    is "$(property a TimeoutStopUSec)" 7s TimeoutStopUSec
}

a_scope_of_somebody_else_is_refused_and_left_alone() {
    command systemd-run $([ "$whose" = root ] || echo --user) -q --scope --slice="$slice" --unit=test-o.scope sleep 100 &
    until [ -e "$(of o)" ]; do sleep 0.1; done
    up o >/dev/null && echo "it was taken"
    is "$(systemctl is-active test-o.scope)" active "the other scope"
    runtime delete --force o >/dev/null 2>&1
    is "$(systemctl is-active test-o.scope)" active "the other scope after delete --force"
    systemctl kill -s KILL test-o.scope
}

a_failed_unit_of_the_same_name_is_cleared_away() {
    command systemd-run $([ "$whose" = root ] || echo --user) -q --scope --slice="$slice" --unit=test-l.scope \
        -p RuntimeMaxSec=1 -p TimeoutStopSec=1 sleep 100
    for _ in $(seq 20); do [ "$(systemctl is-active test-l.scope)" = deactivating ] && sleep 0.2 || break; done
    is "$(systemctl is-active test-l.scope)" failed "the leftover"
    up l || echo "it was not cleared away"
}

a_killed_create_is_cleared_away_by_delete_force() {
    printf '#!/bin/sh\nsleep 100\n' >"$home/hook"
    chmod +x "$home/hook"
    bundle ".process.args=[\"sleep\",\"1000\"]|.linux.cgroupsPath=\"$slice:test:k\"|
        .hooks={createRuntime:[{path:\"$home/hook\"}]}"
    (cd "$home/bundle" && exec "$rt" --root "$home/state" --systemd-cgroup create k </dev/null >/dev/null 2>&1) &
    pid=$!
    for _ in 1 2 3 4 5 6 7 8 9 10; do [ -e "$(of k)" ] && break || sleep 0.3; done
    [ -e "$(of k)" ] || echo "the scope never came"
    kill -KILL $pid
    runtime delete --force k || echo "delete --force failed"
    gone k
    runtime list -q | grep -qx k && echo "its state is still there"
    pkill -f "$home/hook"
}

fifty_at_once() {
    bundle ".process.args=[\"sleep\",\"1000\"]"
    for i in $(seq 50); do
        mkdir -p "$home/many/$i"
        jq ".root.path=\"$home/bundle/rootfs\"|.linux.cgroupsPath=\"$slice:test:n$i\"" "$home/bundle/config.json" \
            >"$home/many/$i/config.json"
    done
    for i in $(seq 50); do
        (cd "$home/many/$i" && runtime run -d "n$i" </dev/null >"$home/many/$i/out" 2>&1 || { echo "n$i: $(cat "$home/many/$i/out")"; }) &
    done
    wait
    is "$(systemctl list-units --no-legend 'test-n*.scope' | grep -c running)" 50 "the number of scopes"
    for i in $(seq 50); do runtime delete --force "n$i" & done
    wait
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        left=$(systemctl list-units --all --no-legend 'test-n*.scope' | grep -c .)
        [ "$left" = 0 ] && break || sleep 0.3
    done
    is "$left" 0 "the number of scopes left"
    rm -rf "$home/many"
}

exec_from_another_cgroup_is_in_the_scope() {
    up e || return
    is "$(runtime exec e cat /proc/self/cgroup)" "0::/" "its cgroup, seen from the namespace"
    runtime exec -d e sleep 500 </dev/null >/dev/null 2>&1
    is "$(grep -c . "$(of e)/cgroup.procs")" 2 "the number of processes"
}

# --- cases of root ---

a_device_that_is_not_allowed_is_denied() {
    up x '.process.capabilities.bounding+=["CAP_MKNOD"]|.process.capabilities.effective+=["CAP_MKNOD"]|
        .process.capabilities.permitted+=["CAP_MKNOD"]|
        .linux.resources.devices=[{allow:false,access:"rwm"},{allow:true,type:"c",major:1,minor:11,access:"r"}]' || return
    devices x
    command systemctl daemon-reload
    devices x
    # `update` replaces our filter, and systemd's does not prevent what the new one allows.
    case $ours in windlass*)
        echo '{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":2,"access":"rwm"}]}' |
            runtime update --resources - x
        said=$(runtime exec x sh -c 'cat /tmp/mem; head -c 0 /tmp/kmsg' 2>&1)
        is "$(echo "$said" | grep -c "not permitted")" 1 "what is denied after the update"
        is "$(echo "$said" | grep -c "kmsg.*not permitted")" 1 "what of kmsg is denied after the update"
        ;;
    esac
}

devices() {
    is "$(runtime exec "$1" sh -c '[ -e /tmp/kmsg ] || mknod /tmp/kmsg c 1 11; [ -e /tmp/mem ] || mknod /tmp/mem c 1 2
        (: </tmp/kmsg) && echo read; (: >/tmp/kmsg) && echo write; (: </tmp/mem) && echo memory
        (echo x >/dev/null) && echo null' 2>/dev/null | tr '\n' ' ')" \
        "read null " "what may be opened"
}

# --- cases of windlass alone ---

a_scope_has_a_name_by_default() {
    bundle '.process.args=["sleep","1000"]'
    (cd "$home/bundle" && runtime run -d named </dev/null >"$home/out" 2>&1) || cat "$home/out"
    is "$(systemctl is-active "$ours-named.scope")" active "$ours-named.scope"
}

the_doctor_finds_a_host_that_works() {
    "$rt" doctor >"$home/out" || echo "it does not: $(cat "$home/out")"
    is "$(grep -c '^ok *systemd' "$home/out")" 1 "that systemd works"
    [ "$whose" = root ] || is "$(grep -c 'no limits of cpuset, io with --systemd-cgroup\|no limits of cpuset, io here' "$home/out")" 1 \
        "that cpuset and io are missing"
    is "$("$rt" doctor --json | jq .ok)" true "ok of the JSON"
}

a_controller_that_is_not_delegated_is_named_with_the_command() {
    up io '.linux.resources.unified={"io.max":"98:0 rbps=1000000"}' >"$home/said" && echo "it started"
    grep -q 'controller "io"' "$home/said" || echo "the controller is not named: $(cat "$home/said")"
    grep -q 'systemctl edit user@.service' "$home/said" || echo "the command is not named: $(cat "$home/said")"
    gone io
}

without_a_bus_the_error_says_what_to_do() {
    bundle .
    said=$(cd "$home/bundle" && XDG_RUNTIME_DIR=/nowhere DBUS_SESSION_BUS_ADDRESS= "$rt" --root "$home/state" --systemd-cgroup run b 2>&1 </dev/null)
    grep -q enable-linger <<<"$said" || echo "no advice: $said"
}

without_delegation_a_container_runs_and_a_limit_is_an_error() {
    bundle '.process.args=["cat","/proc/self/uid_map"]'
    cd "$home/bundle" && "$rt" --root "$home/state" run w </dev/null >"$home/out" 2>&1 || cat "$home/out"
    bundle '.linux.resources.memory={limit:33554432}'
    said=$("$rt" --root "$home/state" run w 2>&1 </dev/null) && echo "it started"
    grep -q 'the controller memory' <<<"$said" || echo "the controller is not named: $said"
    grep -q 'systemd-run --user --scope -p Delegate=yes' <<<"$said" || echo "the command is not named: $said"
    # The command that the error names works.
    bundle '.process.args=["sh","-c","exit 3"]|.linux.resources.memory={limit:33554432}'
    command systemd-run --user --scope -q -p Delegate=yes "$rt" --root "$home/state" run w </dev/null >"$home/out" 2>&1
    is $? 3 "its exit code: $(cat "$home/out")"
}

subordinate_ids_are_mapped() {
    bundle '.process.args=["sh","-c","cat /proc/self/uid_map; id -u; id -G"]|.process.user={uid:33,gid:33,additionalGids:[7]}|
        .linux.uidMappings=[{containerID:0,hostID:1000,size:1},{containerID:1,hostID:100000,size:65535}]|
        .linux.gidMappings=.linux.uidMappings'
    said=$(cd "$home/bundle" && runtime run s </dev/null 2>&1 | tr -s ' \n' ' ')
    is "$said" " 0 1000 1 1 100000 65535 33 33 7 " "what it says"
}

# systemd's own socket comes first; here it is out of reach.
the_bus_serves_as_well() {
    bundle ".process.args=[\"sh\",\"-c\",\"exit 5\"]|.linux.cgroupsPath=\"$slice:test:bus\"|.linux.resources.pids={limit:5}"
    cd "$home/bundle" || return
    mkdir -p "$home/xdg"
    ln -sf "/run/user/$(id -u)/bus" "$home/xdg/bus"
    case $whose in
    root) unshare -m sh -c "mount --bind /dev/null /run/systemd/private; exec $rt --root $home/state --systemd-cgroup run bus" ;;
    user) XDG_RUNTIME_DIR=$home/xdg "$rt" --root "$home/state" --systemd-cgroup run bus ;;
    esac </dev/null >"$home/out" 2>&1
    is $? 5 "its exit code: $(cat "$home/out")"
    gone bus
}

the_process_is_named_by_pidfd_where_systemd_knows_that() {
    bundle ".process.args=[\"true\"]|.linux.cgroupsPath=\"$slice:test:fd\""
    (cd "$home/bundle" && strace -f -s 4096 -e trace=sendmsg,sendto,write -o "$home/trace" "$rt" --root "$home/state" --systemd-cgroup \
        run fd </dev/null >/dev/null 2>&1)
    version=$(version)
    is "$(grep StartTransientUnit "$home/trace" | grep -c 'PIDFDs.*SCM_RIGHTS')" $((version >= 253)) "PIDFDs for systemd $version"
    is "$(grep StartTransientUnit "$home/trace" | grep -c '"PIDs\|[^A-Z]PIDs')" $((version < 253)) "PIDs for systemd $version"
}

the_statistics_are_of_the_scope() {
    up st '.linux.resources={memory:{limit:33554432},pids:{limit:9}}' || return
    runtime events --stats st >"$home/out"
    is "$(jq -c '[.id,.data.pids.current,.data.pids.limit,.data.memory.usage.limit]' "$home/out")" '["st",1,9,33554432]' "what events says"
}

a_delegated_scope_holds_the_containers_below_it() {
    bundle '.process.args=["sh","-c","cat /proc/self/cgroup"]|
        .linux.resources.memory={limit:33554432}|.mounts|=map(select(.type!="cgroup"))|
        .linux.namespaces|=map(select(.type!="cgroup"))'
    cd "$home/bundle" && command systemd-run $([ "$whose" = root ] || echo --user) --scope -q -p Delegate=yes --unit=test-outer \
        "$rt" --root "$home/state" --rootless=true run below </dev/null >"$home/out" 2>&1
    where='/test-outer\.scope/.*below'
    # A user's systemd does not mark its scopes as delegated, so the cgroup is beside the scope.
    [ "$whose" = user ] && where=/app.slice/below
    grep -q "^0::/.*$where" "$home/out" || echo "it was in $(cat "$home/out")"
}

# `doctor` for ordinary users. Each case hides one thing from it, in a mount namespace of its own.
the_doctor_names_the_one_thing_that_is_missing() {
    lacks subordinate "usermod" "grep -v ^user: /etc/subuid >/run/s; mount --bind /run/s /etc/subuid"
    lacks subordinate "uidmap (Debian)" "mkdir -p /run/b; mount -t tmpfs t /run/b; cp /usr/bin/env /usr/bin/setpriv /run/b; mount --bind /run/b /usr/bin"
    lacks subordinate "setcap" "cp /usr/bin/newuidmap /run/n; chmod 755 /run/n; mount --bind /run/n /usr/bin/newuidmap"
    lacks "user namespaces" "sysctl -w user.max_user_namespaces" "echo 0 >/proc/sys/user/max_user_namespaces"
    echo 15000 >/proc/sys/user/max_user_namespaces
    lacks systemd "enable-linger" "mount -t tmpfs t /run/user/1000; chown 1000 /run/user/1000"
    lacks systemd "enable-linger" "mount -t tmpfs t /var/lib/systemd/linger"
    lacks state "with --root" "mount --bind /run/user/1000 /run/user/1000; mount -o remount,bind,ro /run/user/1000"
    lacks cgroups "mount -t cgroup2" "umount -l /sys/fs/cgroup"
    lacks filesystems "modprobe mqueue" "sed /mqueue/d /proc/filesystems >/run/f; mount --bind /run/f /proc/filesystems"
}

# lacks FINDING REMEDY COMMANDS: after root's COMMANDS the user's doctor finds that, which it had not found before.
lacks() {
    doctor true | grep -A1 '^limited\|^missing' >"$home/before"
    doctor "$3" | grep -A1 '^limited\|^missing' >"$home/after"
    said=$(grep -vxF -f "$home/before" "$home/after")
    grep -q "^\(limited\|missing\) *$1" <<<"$said" || echo "$1 is not found missing after $3: $said"
    grep -qF "$2" <<<"$said" || echo "no $2 after $3: $said"
}

doctor() {
    unshare -m sh -c "{ $1; } >/dev/null; exec setpriv --reuid 1000 --regid 1000 --init-groups \
        env HOME=/home/user XDG_RUNTIME_DIR=/run/user/1000 $rt doctor" 2>&1
}

the_shim_keeps_a_container_in_a_scope() {
    shim() { verb=$1; shift; "$(dirname "$rt")/windlass-shim" "$verb" --state-dir "$home/shim" "$@"; }
    bundle ".process.args=[\"sh\",\"-c\",\"echo begun; sleep 1000\"]|.linux.cgroupsPath=\"$slice:test:sh\"|
        .linux.resources.memory={limit:33554432}"
    shim run --id sh --bundle "$home/bundle" --runtime "$rt" --root "$home/state" --runtime-arg --systemd-cgroup \
        </dev/null >"$home/out" 2>&1 || { cat "$home/out"; return; }
    is "$(shim status sh | jq -r '.state // .ok.state')" running "its state"
    is "$(cat "$(of sh)/memory.max")" 33554432 memory.max
    is "$(shim exec sh -- echo from inside 2>&1)" "from inside" "exec's output"
    is "$(shim logs sh | grep -c begun)" 1 "its log"
    shim kill sh KILL
    is "$(shim wait sh | jq -c '.signal // .ok.signal // .')" 9 "what wait says"
    shim delete sh >/dev/null || echo "delete failed"
    gone sh
}

# The unit of examples/, unchanged.
a_unit_runs_a_container_by_the_shim() {
    cp /host/windlass@.service /run/systemd/system/
    systemctl daemon-reload
    ls /run/windlass-shim >"$home/before" 2>/dev/null
    for end in 3 TERM; do
        mkdir -p "/srv/unit$end"
        ln -sfn "$home/bundle/rootfs" "/srv/unit$end/rootfs"
        case $end in
            3) program="echo begun; sleep 1; exit 3" ;;
            TERM) program='trap "exit 0" TERM; sleep 1000 & wait' ;;
        esac
        jq --arg program "$program" '.process.args=["sh","-c",$program]' "$home/base.json" >"/srv/unit$end/config.json"
        systemctl start "windlass@unit$end" || { systemctl status "windlass@unit$end"; return; }
    done
    of_unit() { systemctl show --property "$2" --value "windlass@unit$1"; }
    for _ in $(seq 200); do [ "$(of_unit 3 ActiveState)" != failed ] || break; sleep 0.1; done
    is "$(of_unit 3 ExecMainStatus)" 3 "the exit status of the unit"
    for _ in $(seq 200); do [ ! -e /run/windlass-shim/unitTERM/shim.sock ] || break; sleep 0.1; done
    is "$(of_unit TERM ActiveState)" active "the unit that waits"
    systemctl stop windlass@unitTERM
    is "$(of_unit TERM ActiveState)" inactive "the unit that was stopped"
    is "$(ls /run/windlass-shim)" "$(cat "$home/before")" "what is left of the shims"
    systemctl reset-failed windlass@unit3
}

the_name_of_a_container_that_has_just_ended_is_free() {
    bundle ".process.args=[\"true\"]|.linux.cgroupsPath=\"$slice:test:again\""
    cd "$home/bundle" || return
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        runtime run again </dev/null >"$home/out" 2>&1 || { cat "$home/out"; return; }
    done
}

# count ID: what the container has counted up to.
count() { cat "$home/bundle/rootfs/count" 2>/dev/null || echo 0; }

# counts_on FROM: waits until the container has counted beyond it.
counts_on() {
    for _ in $(seq 100); do [ "$(count)" -gt "$1" ] && return; sleep 0.1; done
    echo "the container does not count beyond $1"
}

a_checkpoint_is_restored_into_its_scope_and_into_another() {
    command -v criu >/dev/null || { echo "SKIPPED: there is no criu"; return; }
    [ -e /proc/sys/kernel/ns_last_pid ] || { echo "SKIPPED: the kernel has no CONFIG_CHECKPOINT_RESTORE"; return; }
    local images=$home/images at
    counting() { bundle ".process.args=[\"sh\",\"-c\",\"i=0; while :; do i=\$((i+1)); echo \$i >/new; mv /new /count; sleep 0.1; done\"]
        |.linux.cgroupsPath=\"$slice:test:$1\""; }
    counting c
    (cd "$home/bundle" && runtime create c </dev/null >/dev/null 2>&1 && runtime start c) || { echo "create failed"; return; }
    counts_on 1
    runtime checkpoint --image-path "$images" c >"$home/out" 2>&1 || { cat "$home/out"; return; }
    gone c
    for id in c d; do
        at=$(count)
        counting "$id"
        (cd "$home/bundle" && runtime --log "$home/out" restore -d --image-path "$images" "$id" </dev/null >/dev/null 2>&1) ||
            { cat "$home/out"; return; }
        counts_on "$at"
        is "$(property "$id" ActiveState)" active
        is "$(property "$id" Delegate)" yes "Delegate of the new scope"
        is "$(sed -n 's/^0:://p' "/proc/$(runtime state "$id" | jq .pid)/cgroup")" "/$slice/test-$id.scope" "the cgroup of init"
        runtime delete --force "$id"
        gone "$id"
    done
}

both="every_verb_works_in_a_scope the_process_is_in_the_scope_and_the_scope_is_delegated
    a_run_in_the_foreground_leaves_nothing a_create_that_fails_leaves_no_scope
    a_memory_limit_kills a_limit_of_tasks_holds cpu_time_is_throttled
    update_changes_the_unit_and_the_cgroup limits_survive_a_daemon_reload a_property_of_an_annotation_is_set
    a_scope_of_somebody_else_is_refused_and_left_alone a_failed_unit_of_the_same_name_is_cleared_away
    a_killed_create_is_cleared_away_by_delete_force exec_from_another_cgroup_is_in_the_scope
    the_name_of_a_container_that_has_just_ended_is_free fifty_at_once"
of_root="a_device_that_is_not_allowed_is_denied an_update_leaves_no_need_of_a_daemon_reload"
of_user=
case $ours in windlass*)
    both="$both a_scope_has_a_name_by_default the_doctor_finds_a_host_that_works the_bus_serves_as_well
        the_statistics_are_of_the_scope a_delegated_scope_holds_the_containers_below_it
        the_shim_keeps_a_container_in_a_scope"
    of_root="$of_root a_checkpoint_is_restored_into_its_scope_and_into_another a_unit_runs_a_container_by_the_shim the_process_is_named_by_pidfd_where_systemd_knows_that
        the_doctor_names_the_one_thing_that_is_missing"
    of_user="a_controller_that_is_not_delegated_is_named_with_the_command without_a_bus_the_error_says_what_to_do
        without_delegation_a_container_runs_and_a_limit_is_an_error subordinate_ids_are_mapped"
    ;;
esac
[ "$whose" = root ] && cases="$both $of_root" || cases="$both $of_user"

rm -rf "$home"
mkdir -p "$home/state" "$home/bundle/rootfs"/{bin,proc,sys,dev,tmp,etc}
cp /bin/busybox "$home/bundle/rootfs/bin/"
for applet in sh true sleep cat echo tail head mknod id mv; do ln -s busybox "$home/bundle/rootfs/bin/$applet"; done
echo root:x:0:0:root:/:/bin/sh >"$home/bundle/rootfs/etc/passwd"
(cd "$home/bundle" && "$rt" spec $([ "$whose" = root ] || echo --rootless) && mv config.json ..)
jq '.process.terminal=false|.root.readonly=false' "$home/config.json" >"$home/base.json"

for name in $(echo "$cases" | tr -s ' ' '\n' | grep -E "$4"); do
    said=$($name 2>&1)
    if [ -z "$said" ]; then
        echo "ok     $ours $whose $name"
    elif [ "${said#SKIPPED: }" != "$said" ]; then
        echo "skip   $ours $whose $name: $said"
    else
        echo "FAILED $ours $whose $name: $said"
        failed=$((failed + 1))
    fi
    for id in $(runtime list -q 2>/dev/null); do runtime delete --force "$id" >/dev/null 2>&1; done
done
exit $failed
