//! The runtime and the shim inside a container.

use super::sources;
use crate::chapter;
use crate::kit::{Bundle, Need, T, Verdict};
use serde_json::json;

chapter! { "nested":
    in_a_privileged_container_every_verb_works [Need::Windlass],
    in_a_container_with_a_user_namespace_every_verb_works [Need::Windlass],
    in_two_containers_every_verb_works [Need::Windlass],
}

/// The life of a container by the runtime, and of another by the shim. Nothing of either is left.
const LIFE: &str = r#"set -e
w="/windlass --root /run/inner"
says() { wanted=$1; shift; said=$("$@" 2>&1) || true; case "$said" in *"$wanted"*) ;; *) echo "$*: $said"; exit 1;; esac; }
$w run --bundle /speaks one
$w create --bundle /sleeps --pid-file /run/pid two </dev/null >/dev/null
$w start two
says executed $w exec two /bin/echo executed
says 0::/ $w exec two /bin/cat /proc/self/cgroup
$w pause two
says paused $w state two
$w resume two
says running $w list
says PID $w ps two
$w kill two KILL
until $w state two >/run/state && grep -q stopped /run/state; do usleep 10000; done
$w delete two
says "does not exist" $w state two
s="--state-dir /run/shims"
says '"shim_pid"' /windlass-shim run $s --id three --bundle /ends --runtime /windlass --root /run/inner
says '"code":7' /windlass-shim wait $s three
says '"code":7' /windlass-shim delete $s three
$w create --bundle /sleeps four </dev/null >/dev/null
$w delete --force four
test -z "$(find /run/inner /run/shims /sys/fs/cgroup -name one -o -name two -o -name three -o -name four)"
echo all of it
"#;

/// Adds the needs of a container that makes containers: the programs, a place for states, a cgroup that it may divide.
fn with_inside(t: &T, bundle: Bundle) -> Bundle {
    let tmpfs = json!({"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]});
    let cgroup = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "rw"]});
    let sys = json!({"destination": "/sys", "type": "sysfs", "source": "sysfs"});
    bundle
        .privileged()
        .set("/linux/resources/devices", json!([{"allow": true, "access": "rwm"}]))
        .set("/mounts/4", sys)
        .mount(cgroup)
        .mount(tmpfs)
        .bind(&t.runtime, "/windlass", &["bind", "ro"])
        .bind(&t.shim, "/windlass-shim", &["bind", "ro"])
}

/// Puts the bundles of the inner containers into a container.
fn with_bundles(t: &T, outer: Bundle, make: &dyn Fn() -> Verdict<Bundle>) -> Verdict<Bundle> {
    let inner = [("/speaks", "echo from inside"), ("/sleeps", "exec sleep 1000"), ("/ends", "exit 7")];
    inner.into_iter().try_fold(with_inside(t, outer), |outer, (at, script)| {
        let bundle = make()?.sh(script);
        bundle.write()?;
        Ok(outer.bind(&bundle.dir, at, &["rbind", "rw"]))
    })
}

fn all_of_it(t: &T, outer: &Bundle) -> Verdict {
    t.run(outer)?.ok()?.stdout_has("from inside")?.stdout_has("all of it")?;
    Ok(())
}

fn in_a_privileged_container_every_verb_works(t: &T) -> Verdict {
    all_of_it(t, &with_bundles(t, t.bundle()?, &|| t.bundle())?.sh(LIFE))
}

fn in_a_container_with_a_user_namespace_every_verb_works(t: &T) -> Verdict {
    // Root of the outer user namespace needs no further one inside.
    let own = || {
        let bundle = t.bundle()?;
        sources::give(&bundle.rootfs())?;
        Ok(bundle)
    };
    all_of_it(t, &with_bundles(t, sources::user_namespace(t)?, &own)?.sh(LIFE))
}

fn in_two_containers_every_verb_works(t: &T) -> Verdict {
    // The sources of binds are at the same paths in the middle container.
    let here = |at: &str| json!({"destination": at, "type": "bind", "source": at, "options": ["rbind", "rw"]});
    let between = with_inside(t, t.bundle()?).edit(|spec| {
        for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
            if mount["type"] == "bind" {
                mount["source"] = mount["destination"].clone();
            }
        }
    });
    let between = ["/speaks", "/sleeps", "/ends"].into_iter().fold(between, |b, at| b.mount(here(at))).sh(LIFE);
    between.write()?;
    let outer = with_bundles(t, t.bundle()?, &|| t.bundle())?.bind(&between.dir, "/between", &["rbind", "rw"]);
    all_of_it(t, &outer.sh("/windlass --root /run/outer run --bundle /between between"))
}
