//! The socket helper: a process that makes socket calls when told to, one JSON line in, one out.
//!
//! It makes each call as plainly as possible and reports the kernel's answer unchanged. It never
//! retries. Every call is bounded in time, so a test never hangs on its helper.

pub mod churn;
mod pass;
pub mod protocol;
pub mod shared;
mod sockets;
mod uring;

use std::{
    env,
    io::{self, BufRead, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Command, Stdio},
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
};

use self::{
    protocol::{Reply, Request, Response, Socket},
    sockets::Sockets,
};
use crate::must::Must;

/// The helper's `main`: enters the place its flags name, then does what its mode says.
///
/// - `serve`: answers requests on standard input until it closes.
/// - `exec PROGRAM ARGUMENT…`: becomes the program.
/// - `inherit SOCKET REQUEST`: answers one request about the socket it got as standard input.
///
/// Flags after the mode: `--cgroup PATH`, `--netns PATH`.
///
/// # Panics
/// When it is used wrongly or the place cannot be entered.
pub fn main() {
    let mut arguments = env::args_os().skip(1).peekable();
    let mode = arguments.next().must("run without a mode: serve, exec or inherit");
    while let Some(flag) = arguments.next_if(|argument| argument == "--cgroup" || argument == "--netns") {
        let path = PathBuf::from(arguments.next().must("enter a place without its path"));
        if flag == "--cgroup" {
            // Zero stands for the writing process.
            std::fs::write(path.join("cgroup.procs"), "0").must(format_args!("enter {}", path.display()));
        } else {
            let namespace = std::fs::File::open(&path).must(format_args!("open {}", path.display()));
            setns(namespace, CloneFlags::CLONE_NEWNET).must(format_args!("enter {}", path.display()));
        }
    }
    match mode.to_str() {
        Some("serve") => serve(),
        Some("exec") => {
            let program = arguments.next().must("exec without a program");
            let error = Command::new(&program).args(arguments).exec();
            panic!("cannot run {}: {error}", program.display());
        }
        Some("inherit") => {
            let text: Vec<String> = arguments.filter_map(|argument| argument.into_string().ok()).collect();
            let [socket, request] = text.as_slice() else { panic!("inherit takes a socket and a request") };
            inherit(socket, request);
        }
        _ => panic!("unknown mode {}", mode.display()),
    }
}

fn serve() {
    let mut helper = Helper::default();
    for line in io::stdin().lock().lines() {
        let request = serde_json::from_str(&line.must("read a request")).must("understand a request");
        respond(&helper.handle(request));
    }
}

fn inherit(socket: &str, request: &str) {
    let socket: Socket = serde_json::from_str(socket).must("understand a socket");
    let request = serde_json::from_str(request).must("understand a request");
    let mut helper = Helper::default();
    let inherited = io::stdin().as_fd().try_clone_to_owned().must("take the inherited socket");
    helper.sockets.keep(socket, inherited);
    respond(&helper.handle(request));
}

fn respond(response: &Response) {
    let mut line = serde_json::to_vec(response).must("write a response");
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output.write_all(&line).and_then(|()| output.flush()).must("write a response");
}

#[derive(Default)]
struct Helper {
    sockets: Sockets,
    churn: Option<churn::Running>,
}

impl Helper {
    fn handle(&mut self, request: Request) -> Response {
        self.answer(request).map_err(|errno| errno as i32)
    }

    fn answer(&mut self, request: Request) -> Result<Reply, Errno> {
        let sockets = &mut self.sockets;
        match request {
            Request::Open { kind, bind } => sockets.open(kind, bind).map(Reply::Socket),
            Request::Close { socket } => sockets.close(socket).map(|()| Reply::Done),
            Request::Priority { socket, value } => sockets.set_priority(socket, value).map(|()| Reply::Done),
            Request::Connect { socket, to, how } => sockets.connect(socket, to, how).map(|()| Reply::Done),
            Request::Disconnect { socket } => sockets.disconnect(socket).map(|()| Reply::Done),
            Request::Send { socket, data } => sockets.send(socket, &data).map(|()| Reply::Done),
            Request::SendTo { socket, to, data } => sockets.send_to(socket, to, &data).map(|()| Reply::Done),
            Request::FastOpen { socket, to, data } => {
                sockets.fast_open(socket, to, &data).map(|()| Reply::Done)
            }
            Request::SendMsg { socket, to, data } => {
                sockets.send_msg(socket, to, &data).map(|()| Reply::Done)
            }
            Request::SendMmsg { socket, messages } => sockets.send_mmsg(socket, &messages).map(Reply::Count),
            Request::Receive { socket, how, patience_ms } => {
                sockets.receive(socket, how, patience_ms).map(Reply::Message)
            }
            Request::PeerName { socket } => sockets.peer_name(socket).map(Reply::Address),
            Request::SockName { socket } => sockets.sock_name(socket).map(Reply::Address),
            Request::Fork { socket, request } => fork(sockets.share(socket)?, socket, &request),
            Request::PassSocket { socket, path } => {
                pass::send(sockets.share(socket)?, &path).map(|()| Reply::Done)
            }
            Request::TakeSocket { path } => Ok(Reply::Socket(sockets.add(pass::receive(&path)?))),
            Request::HasUring => Ok(Reply::Truth(uring::available())),
            Request::Share(work) => shared::run(&work).map(Reply::Heard),
            Request::StartChurn(churn) => {
                self.churn = Some(churn::Running::start(churn));
                Ok(Reply::Done)
            }
            Request::EndChurn { stop } => {
                let running = self.churn.take().ok_or(Errno::ESRCH)?;
                Ok(Reply::Churn(running.end(stop)))
            }
        }
    }
}

/// What a fork would do: a child with the parent's socket. Rust cannot fork safely, so the helper starts
/// itself again with the socket as standard input; both processes share one open file.
fn fork(shared: OwnedFd, socket: Socket, request: &Request) -> Result<Reply, Errno> {
    let output = Command::new(env::current_exe().must("find the helper's own binary"))
        .arg("inherit")
        .arg(serde_json::to_string(&socket).must("write a socket"))
        .arg(serde_json::to_string(request).must("write a request"))
        .stdin(Stdio::from(shared))
        .stderr(Stdio::inherit())
        .output()
        .must("start the helper again");
    let response: Response = serde_json::from_slice(&output.stdout).must("understand the child's response");
    response.map_err(Errno::from_raw)
}

/// The errno of a failed call.
fn errno(error: impl Into<io::Error>) -> Errno {
    error.into().raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}
