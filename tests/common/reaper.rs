//! Ends what a test binary leaves behind.
//!
//! Clusters that tests share live in statics, which are never dropped, and a
//! test binary may be killed itself. So a shell watches a pipe that only this
//! process holds: when it closes, whatever was started and not yet forgotten is
//! killed, and temporary folders are removed.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

const SCRIPT: &str = r#"
trap '' INT TERM HUP
pids=' '
dirs=
while read -r what which; do
  case $what in
    +) pids="$pids$which " ;;
    -) pids="${pids%% $which *} ${pids#* $which }" ;;
    d) dirs="$dirs $which" ;;
  esac
done
[ "$pids" = ' ' ] || kill -9 $pids 2>/dev/null
[ -z "$dirs" ] || rm -rf $dirs
"#;

// The shell outlives this process by design, so nobody here waits for it.
#[allow(clippy::zombie_processes)]
fn tell(line: &str) {
    static PIPE: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    let pipe = PIPE.get_or_init(|| {
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        Mutex::new(shell.stdin.take().expect("its input was asked for"))
    });
    let mut pipe = pipe.lock().unwrap_or_else(PoisonError::into_inner);
    // Without the reaper tests are still right, only less tidy.
    let _gone = writeln!(pipe, "{line}");
}

/// Kill this process when the tests are over.
pub fn watch(child: &Child) {
    tell(&format!("+ {}", child.id()));
}

/// It is dead or about to be waited for: its number may soon be another's.
pub fn forget(child: &Child) {
    tell(&format!("- {}", child.id()));
}

/// Remove this folder when the tests are over.
pub fn remove_at_end(dir: &Path) {
    tell(&format!("d {}", dir.display()));
}
