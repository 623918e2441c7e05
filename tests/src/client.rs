//! A client in a cgroup and network namespace of its own.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::Duration,
};

use nix::errno::Errno;

use crate::{
    Churn, ChurnReport, Connect, Heard, Kind, Message, Place, Receive, Shared, Socket, TempDir,
    must::Must,
    sock::protocol::{Reply, Request, Response},
};

/// How long a receive waits where the caller does not say.
const PATIENCE: Duration = Duration::from_secs(5);

/// A socket helper at work: a process that makes socket calls when told to and reports the kernel's
/// answer. It is killed on drop. Its sockets are blocking, and every call ends after at most 5 seconds.
#[derive(Debug)]
pub struct Client {
    child: Child,
    requests: ChildStdin,
    responses: BufReader<ChildStdout>,
}

/// Takes the expected reply of a call; the protocol knows no other for it.
macro_rules! expect {
    ($reply:expr, $variant:ident) => {
        match $reply {
            Ok(Reply::$variant(value)) => Ok(value),
            Err(errno) => Err(errno),
            Ok(other) => panic!("the helper answered {other:?}"),
        }
    };
}

impl Client {
    /// Starts a client at a place.
    #[must_use]
    pub fn start(place: &Place) -> Self {
        let mut child = place
            .helper("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .must("start the socket helper");
        let requests = child.stdin.take().must("write to the socket helper");
        let responses = BufReader::new(child.stdout.take().must("read from the socket helper"));
        Self { child, requests, responses }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Opens a socket. It is closed with the client at the latest.
    pub fn open(&mut self, kind: Kind) -> Socket {
        expect!(self.call(&Request::Open { kind, bind: None }), Socket).must("open a socket")
    }

    /// Opens a socket of a kind that the kernel may not have.
    ///
    /// # Errors
    /// Of socket(2).
    pub fn try_open(&mut self, kind: Kind) -> Result<Socket, Errno> {
        expect!(self.call(&Request::Open { kind, bind: None }), Socket)
    }

    /// Opens a socket and binds it.
    ///
    /// # Errors
    /// Of bind(2).
    pub fn open_bound(&mut self, kind: Kind, address: SocketAddr) -> Result<Socket, Errno> {
        expect!(self.call(&Request::Open { kind, bind: Some(address) }), Socket)
    }

    /// Closes a socket.
    pub fn close(&mut self, socket: Socket) {
        self.done(&Request::Close { socket }).must("close a socket");
    }

    /// Sets `SO_PRIORITY`.
    ///
    /// # Errors
    /// Of the call: EPERM without the right to it.
    pub fn set_priority(&mut self, socket: Socket, value: u32) -> Result<(), Errno> {
        self.done(&Request::Priority { socket, value })
    }

    /// connect(2).
    ///
    /// # Errors
    /// Of the call; EINPROGRESS when it took longer than 5 seconds.
    pub fn connect(&mut self, socket: Socket, to: SocketAddr) -> Result<(), Errno> {
        self.connect_by(Connect::Blocking, socket, to)
    }

    /// Connects in a certain way.
    ///
    /// # Errors
    /// Of the call, or what `SO_ERROR` told after it.
    pub fn connect_by(&mut self, how: Connect, socket: Socket, to: SocketAddr) -> Result<(), Errno> {
        self.done(&Request::Connect { socket, to, how })
    }

    /// connect(2) with `AF_UNSPEC`, which dissolves the association of a UDP socket.
    ///
    /// # Errors
    /// Of the call.
    pub fn disconnect(&mut self, socket: Socket) -> Result<(), Errno> {
        self.done(&Request::Disconnect { socket })
    }

    /// connect(2) on the socket by a child process that inherited it.
    ///
    /// # Errors
    /// Of the call.
    pub fn fork_connect(&mut self, socket: Socket, to: SocketAddr) -> Result<(), Errno> {
        let request = Request::Connect { socket, to, how: Connect::Blocking };
        self.done(&Request::Fork { socket, request: request.into() })
    }

    /// getpeername(2) on the socket by a child process that inherited it.
    ///
    /// # Errors
    /// Of the call.
    pub fn fork_peer_name(&mut self, socket: Socket) -> Result<SocketAddr, Errno> {
        let request = Request::PeerName { socket };
        expect!(self.call(&Request::Fork { socket, request: request.into() }), Address)
    }

    /// send(2) on a connected socket.
    ///
    /// # Errors
    /// Of the call.
    pub fn send(&mut self, socket: Socket, data: &str) -> Result<(), Errno> {
        self.done(&Request::Send { socket, data: data.into() })
    }

    /// sendto(2).
    ///
    /// # Errors
    /// Of the call.
    pub fn send_to(&mut self, socket: Socket, to: SocketAddr, data: &str) -> Result<(), Errno> {
        self.done(&Request::SendTo { socket, to, data: data.into() })
    }

    /// sendto(2) with `MSG_FASTOPEN` on a TCP socket: connects, and sends as much as it can with the first packet.
    ///
    /// # Errors
    /// Of the call; EOPNOTSUPP where the kernel does not allow it (`ipv4/tcp_fastopen`).
    pub fn fast_open(&mut self, socket: Socket, to: SocketAddr, data: &str) -> Result<(), Errno> {
        self.done(&Request::FastOpen { socket, to, data: data.into() })
    }

    /// sendmsg(2), with or without an address.
    ///
    /// # Errors
    /// Of the call.
    pub fn send_msg(&mut self, socket: Socket, to: Option<SocketAddr>, data: &str) -> Result<(), Errno> {
        self.done(&Request::SendMsg { socket, to, data: data.into() })
    }

    /// sendmmsg(2): all messages in one call. Returns how many were sent.
    ///
    /// # Errors
    /// Of the call, when not even the first message was sent.
    pub fn send_mmsg(&mut self, socket: Socket, messages: &[(SocketAddr, &str)]) -> Result<usize, Errno> {
        let messages = messages.iter().map(|(to, data)| (*to, (*data).to_owned())).collect();
        expect!(self.call(&Request::SendMmsg { socket, messages }), Count)
    }

    /// recvfrom(2).
    ///
    /// # Errors
    /// Of the call; EAGAIN when nothing came for 5 seconds.
    pub fn receive(&mut self, socket: Socket) -> Result<Message, Errno> {
        self.receive_by(Receive::RecvFrom, socket, PATIENCE)
    }

    /// Receives with a certain call and patience.
    ///
    /// # Errors
    /// Of the call; EAGAIN when nothing came in time.
    pub fn receive_by(&mut self, how: Receive, socket: Socket, patience: Duration) -> Result<Message, Errno> {
        // A time-out of zero would mean to wait for ever.
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX).max(1);
        expect!(self.call(&Request::Receive { socket, how, patience_ms }), Message)
    }

    /// getpeername(2).
    ///
    /// # Errors
    /// Of the call: ENOTCONN.
    pub fn peer_name(&mut self, socket: Socket) -> Result<SocketAddr, Errno> {
        expect!(self.call(&Request::PeerName { socket }), Address)
    }

    /// getsockname(2).
    ///
    /// # Errors
    /// Of the call.
    pub fn sock_name(&mut self, socket: Socket) -> Result<SocketAddr, Errno> {
        expect!(self.call(&Request::SockName { socket }), Address)
    }

    /// Gives another client a descriptor of the socket. Both share it afterwards; the result is the
    /// other's number for it.
    pub fn pass(&mut self, socket: Socket, other: &mut Self) -> Socket {
        let directory = TempDir::new("pass");
        let path = directory.path().join("socket");
        other.write(&Request::TakeSocket { path: path.clone() });
        self.done(&Request::PassSocket { socket, path }).must("pass a socket");
        expect!(other.read(), Socket).must("take a socket")
    }

    /// Whether [`Connect::Uring`] works here.
    pub fn has_uring(&mut self) -> bool {
        expect!(self.call(&Request::HasUring), Truth).must("ask for io_uring")
    }

    /// Connects anew over TCP and returns the name of the server that answered.
    ///
    /// # Errors
    /// Of connect(2) or of receiving the name.
    pub fn ask_tcp(&mut self, to: SocketAddr) -> Result<String, Errno> {
        self.ask(Kind::tcp(to), to)
    }

    /// Connects a new UDP socket and returns the name of the server that answered.
    ///
    /// # Errors
    /// Of connect(2), or of receiving the answer.
    pub fn ask_udp(&mut self, to: SocketAddr) -> Result<String, Errno> {
        self.ask(Kind::udp(to), to)
    }

    fn ask(&mut self, kind: Kind, to: SocketAddr) -> Result<String, Errno> {
        let socket = self.open(kind);
        let answer = self.connect(socket, to).and_then(|()| {
            if !kind.is_tcp() {
                self.send(socket, "?")?;
            }
            self.receive(socket)
        });
        self.close(socket);
        let data = answer?.data;
        Ok(data.split_whitespace().next().unwrap_or_default().to_owned())
    }

    /// Lets several threads use one unconnected socket, and counts the answers that they heard.
    ///
    /// # Errors
    /// Of sending or receiving; EAGAIN when an answer did not come for 5 seconds.
    pub fn share(&mut self, work: &Shared) -> Result<Vec<(Heard, u64)>, Errno> {
        expect!(self.call(&Request::Share(work.clone())), Heard)
    }

    /// Runs a churn to its end.
    ///
    /// # Panics
    /// When it has neither a duration nor a number of rounds.
    pub fn churn(&mut self, churn: &Churn) -> ChurnReport {
        let ends = churn.duration.is_some() || churn.rounds.is_some();
        assert!(ends, "this churn would never end: give it a duration or a number of rounds");
        self.start_churn(churn);
        self.end_churn()
    }

    /// Starts a churn in the background. Other calls go on meanwhile.
    pub fn start_churn(&mut self, churn: &Churn) {
        self.done(&Request::StartChurn(churn.clone())).must("start a churn");
    }

    /// Waits until the churn has ended by itself.
    pub fn end_churn(&mut self) -> ChurnReport {
        expect!(self.call(&Request::EndChurn { stop: false }), Churn).must("end a churn")
    }

    /// Stops the churn after its present rounds.
    pub fn stop_churn(&mut self) -> ChurnReport {
        expect!(self.call(&Request::EndChurn { stop: true }), Churn).must("end a churn")
    }

    fn done(&mut self, request: &Request) -> Result<(), Errno> {
        match self.call(request) {
            Ok(Reply::Done) => Ok(()),
            Err(errno) => Err(errno),
            Ok(other) => panic!("the helper answered {other:?}"),
        }
    }

    fn call(&mut self, request: &Request) -> Result<Reply, Errno> {
        self.write(request);
        self.read()
    }

    fn write(&mut self, request: &Request) {
        let mut line = serde_json::to_vec(request).must("write a request");
        line.push(b'\n');
        self.requests.write_all(&line).must("reach the socket helper");
    }

    fn read(&mut self) -> Result<Reply, Errno> {
        let mut line = String::new();
        let length = self.responses.read_line(&mut line).must("hear from the socket helper");
        assert!(length > 0, "the socket helper has ended: see its message above");
        let response: Response = serde_json::from_str(&line).must("understand the socket helper");
        response.map_err(Errno::from_raw)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
