//! Shares of real servers: NFS by Ganesha, SMB by Samba, SSH by OpenSSH. They listen on their usual ports in a network of
//! their own, where a machine of [`crate::live`] reaches them as 10.0.2.2 (QEMU's user network leads to this side's loopback).
//!
//! The network is that of the thread that makes them: what the thread starts from then on is in it too. A server lives
//! in a namespace of processes whose first one waits for the end of its input. So nothing stays when a test ends in any way.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use image_core::exec::real::{Beside, Machine};
use image_core::exec::{Call, Runner};
use tempfile::TempDir;

use crate::{call, fixtures, network, run, tool};

/// What kind of server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Share {
    /// NFS, version 4.
    Nfs,
    /// SMB, version 3.
    Smb,
    /// A folder by SFTP.
    Ssh,
}

/// All kinds.
pub const ALL: [Share; 3] = [Share::Nfs, Share::Smb, Share::Ssh];

/// Who may use SMB and SSH.
pub const USER: &str = "anna";

/// That user's password.
pub const PASSWORD: &str = "open sesame";

/// A server that is slower to start than this will not.
const PATIENCE: Duration = Duration::from_secs(60);

const GANESHA: &str = r#"
NFS_CORE_PARAM { Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false; }
NFSv4 { RecoveryRoot = "WORK/state"; Graceless = true; }
EXPORT_DEFAULTS { Access_Type = RW; Squash = None; SecType = sys; PrivilegedPort = false; }
EXPORT { Export_Id = 1; Path = "WORK/nfs"; Pseudo = "/images"; Transports = TCP; FSAL { Name = VFS; } }
"#;

const SAMBA: &str = "
[global]
interfaces = 127.0.0.1
bind interfaces only = yes
smb ports = 445
disable netbios = yes
server role = standalone server
private dir = WORK/state
state directory = WORK/state
cache directory = WORK/state
lock directory = WORK/state
pid directory = WORK/state
ncalrpc dir = WORK/state/ncalrpc
log file = WORK/smb.said
username map = WORK/users
load printers = no
disable spoolss = yes
[images]
path = WORK/smb
read only = no
";

const SSHD: &str = "
ListenAddress 127.0.0.1
HostKey WORK/key
PidFile none
UsePAM no
PermitRootLogin yes
PasswordAuthentication yes
AuthorizedKeysFile WORK/allowed
StrictModes no
Subsystem sftp internal-sftp
";

impl Share {
    /// Its port, and what a shell runs to serve it.
    fn server(self) -> (u16, &'static str) {
        match self {
            Self::Nfs => (2049, "ganesha.nfsd -F -f nfs.conf -L nfs.said -p state/nfs.pid"),
            Self::Smb => (445, "smbd -F --no-process-group -s smb.conf"),
            // Its user is one that only this server knows. sshd wants its whole path.
            Self::Ssh => (
                22,
                "mount --bind passwd /etc/passwd; mount --bind shadow /etc/shadow; mount -t tmpfs run /run; \
                 mkdir /run/sshd; $(command -v sshd) -D -e -f $PWD/ssh.conf 2> ssh.said",
            ),
        }
    }

    /// What its folders are called, here and below `/media` there.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nfs => "nfs",
            Self::Smb => "smb",
            Self::Ssh => "ssh",
        }
    }
}

/// The servers that run; they end when dropped.
pub struct Shares {
    work: TempDir,
    running: BTreeMap<Share, Beside>,
}

impl Shares {
    /// Gives this thread a network of its own and starts the servers in it.
    ///
    /// # Errors
    /// A server is not installed, or does not start. Needs root.
    pub fn serve() -> Result<Self> {
        network::own()?;
        // Ganesha serves no tmpfs, which /tmp may be.
        let work = TempDir::new_in(fixtures::folder()?)?;
        let mut shares = Self { work, running: BTreeMap::new() };
        let file = |name: &str, text: &str| {
            let text = text.replace("WORK", &shares.work.path().display().to_string());
            fs::write(shares.work.path().join(name), text)
        };
        for folder in ["nfs", "smb", "ssh", "state"] {
            fs::create_dir(shares.work.path().join(folder))?;
        }
        file("nfs.conf", GANESHA)?;
        file("smb.conf", SAMBA)?;
        file("ssh.conf", SSHD)?;
        file("users", &format!("root = {USER}\n"))?;
        let users = fs::read_to_string("/etc/passwd")?;
        file("passwd", &format!("{users}{USER}:x:0:0::/root:/bin/sh\n"))?;
        let hash = tool::run(&call!("openssl", "passwd", "-6", PASSWORD))?;
        let secrets = fs::read_to_string("/etc/shadow")?;
        file("shadow", &format!("{secrets}{USER}:{}:19000::::::\n", hash.trim()))?;
        let path = |name: &str| shares.work.path().join(name);
        run!("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path("key"))?;
        let call = call!("smbpasswd", "-c", path("smb.conf"), "-s", "-a", "root");
        tool::run(&call.stdin(format!("{PASSWORD}\n{PASSWORD}\n")))?;
        for share in ALL {
            shares.start(share)?;
        }
        Ok(shares)
    }

    /// The folder on this side.
    pub fn folder(&self, share: Share) -> PathBuf {
        self.work.path().join(share.name())
    }

    /// Lets whoever has this public key in by SSH, and nobody by another one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn allow(&self, public: &Path) -> Result<()> {
        fs::copy(public, self.work.path().join("allowed"))?;
        Ok(())
    }

    /// What a person types to attach it.
    pub fn address(&self, share: Share) -> String {
        match share {
            Share::Nfs => "10.0.2.2:/images".to_owned(),
            Share::Smb => format!("{USER}@10.0.2.2/images"),
            Share::Ssh => format!("{USER}@10.0.2.2:{}", self.folder(share).display()),
        }
    }

    /// Starts a server, and waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub fn start(&mut self, share: Share) -> Result<()> {
        let (port, line) = share.server();
        let program = line.split_whitespace().next().unwrap_or_default();
        let script = format!("cd \"$1\"; {{ {line}; }} > {}.out & exec cat", share.name());
        let call: Call = call!(
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            script,
            "sh",
            self.work.path()
        );
        let needed = if program == "mount" { "sshd" } else { program };
        Machine.find(needed).with_context(|| {
            format!("{needed} is not installed; scripts/install installs what the tests need")
        })?;
        self.running.insert(share, Machine.spawn(&call)?);
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if begin.elapsed() > PATIENCE {
                let said = |end: &str| {
                    let path = self.work.path().join(format!("{}.{end}", share.name()));
                    fs::read_to_string(path).unwrap_or_default()
                };
                bail!("{program} does not answer: {}{}", said("out"), said("said"));
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Lets all servers be silent, as where they hang: nothing is refused, nothing is answered. Or ends that.
    ///
    /// # Errors
    /// The network cannot be changed.
    pub fn hang(&self, hang: bool) -> Result<()> {
        run!("ip", "link", "set", "lo", if hang { "down" } else { "up" })?;
        Ok(())
    }

    /// Ends a server, as a crash of its machine's system would.
    pub fn end(&mut self, share: Share) {
        drop(self.running.remove(&share));
    }
}
