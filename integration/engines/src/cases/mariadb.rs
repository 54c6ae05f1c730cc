//! The worked example: a database whose data outlives its daemon, its restarts and its container.

use crate::case::chapter;
use crate::engine::start_dockerd;
use crate::session::{Session, until_within};
use integration::kit::stop::{Context, skip};
use integration::kit::{Need, Stop, Verdict};
use integration::{ensure, ensure_eq};
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;
use std::time::Duration;

chapter! { [Docker] "database":
    the_data_outlives_the_daemon_a_restart_and_the_container [Need::Slow],
    a_wrong_option_is_told_by_ps_and_logs [Need::Slow],
}

/// The root filesystem that `setup.sh long` makes.
const TREE: &str = "/var/cache/windlass-engines/mariadb.tar";
const IMAGE: &str = "localhost/mariadb:latest";

/// Starts like the images of databases, which first make the tables of an empty volume.
const SERVE: &str = "mkdir -p /run/mysqld; chown mysql /run/mysqld
    [ -d /var/lib/mysql/mysql ] || mariadb-install-db --user=mysql --skip-test-db > /dev/null
    exec mariadbd --user=mysql --bind-address=0.0.0.0 --skip-name-resolve --init-file=/init.sql";

/// SQL, a statement a line.
const INIT: &str = "CREATE USER IF NOT EXISTS 'root'@'%' IDENTIFIED BY 'secret';\n\
    GRANT ALL ON *.* TO 'root'@'%' WITH GRANT OPTION;\nCREATE DATABASE IF NOT EXISTS shop;\n";

fn import(s: &Session) -> Verdict {
    if !Path::new(TREE).exists() {
        return skip(format!("no {TREE}: integration/engines/setup.sh long makes it"));
    }
    fs::write(s.path("init.sql"), INIT).context("init.sql")?;
    s.ok(&format!("import {TREE} {IMAGE}")).map(drop)
}

/// A server with its volume and port.
fn server(s: &Session, name: &str) -> Verdict {
    let options = format!("-p 13306:3306 -v shop:/var/lib/mysql -v {}:/init.sql:ro", s.path("init.sql").display());
    s.ok_with(&format!("run -d --name {name} {options} {IMAGE} sh -c"), SERVE).map(drop)
}

/// The answer to a statement from a client at the published port, once the server answers.
fn query(s: &Session, client: &str, statement: &str) -> Verdict<String> {
    let words = format!("exec {client} mariadb --connect-timeout=2 -h127.0.0.1 -P13306 -uroot -psecret shop -Ne");
    let mut last = String::new();
    let answer = until_within(Duration::from_secs(120), "the answer of the database", || {
        let ran = s.run_with(&words, statement)?;
        last.clone_from(&ran.stderr);
        Ok((ran.code == 0).then(|| ran.stdout.trim().to_owned()))
    });
    answer.map_err(|stop| Stop::Fail(format!("{stop}: {last}")))
}

fn the_data_outlives_the_daemon_a_restart_and_the_container(s: &Session) -> Verdict {
    import(s)?;
    let client = s.name();
    s.ok(&format!("run -d --name {client} --network host {IMAGE} sleep 1000"))?;
    server(s, "db")?;
    query(s, &client, "CREATE TABLE t (n INT PRIMARY KEY); INSERT INTO t VALUES (1)")?;
    let pid = s.inspect("db", "{{.State.Pid}}")?;

    s.end_daemon(Signal::SIGKILL)?;
    ensure!(Path::new("/proc").join(&pid).exists(), "the database died with the daemon");
    start_dockerd(s, &[])?;
    ensure_eq!(s.inspect("db", "{{.State.Pid}}")?, pid, "the process of the database");
    query(s, &client, "INSERT INTO t VALUES (2)")?;

    s.ok("restart db")?;
    query(s, &client, "INSERT INTO t VALUES (3)")?;
    s.ok("stop db")?;
    ensure_eq!(s.inspect("db", "{{.State.ExitCode}}")?, "0", "exit code of a clean stop");
    s.ok("rm db")?;
    server(s, "db2")?;
    ensure_eq!(query(s, &client, "SELECT GROUP_CONCAT(n ORDER BY n) FROM t")?, "1,2,3", "rows");
    Ok(())
}

fn a_wrong_option_is_told_by_ps_and_logs(s: &Session) -> Verdict {
    import(s)?;
    let name = s.name();
    s.ok(&format!("run -d --name {name} {IMAGE} mariadbd --user=mysql --no-such-option"))?;
    let code = s.ok(&format!("wait {name}"))?;
    ensure!(code != "0", "the server took an option that it cannot know");
    let listed = s.ok_with(&format!("ps -a --filter name={name} --format"), "{{.Status}}")?;
    ensure!(listed.contains(&format!("Exited ({code})")), "ps -a: {listed}");
    s.run(&format!("logs {name}"))?.ok()?.stderr_has("no-such-option").map(drop)
}
