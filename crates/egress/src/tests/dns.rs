//! A name server on loopback, over UDP and TCP, that answers by a script.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, SOA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// What is said about a name.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// Addresses, or `CNAME name`. The second lookup gets the second list, and so on; the last one stays.
    Records(Vec<Vec<String>>),
    /// A code without records.
    Code(ResponseCode),
    /// Nothing at all.
    Silence,
    /// An alias, and nothing of what it leads to: the resolver must ask again.
    AliasAlone(String),
    /// An address, said to be another name's, without a word of how that comes.
    Foreign { owner: String, address: String },
    /// An address for A; the code for AAAA.
    HalfOf(String, ResponseCode),
}

impl Reply {
    pub(super) fn records<const N: usize>(records: [&str; N]) -> Self {
        Self::Records(vec![records.map(str::to_owned).to_vec()])
    }
}

#[derive(Default)]
struct Script {
    replies: HashMap<String, Reply>,
    /// For names that are not in the script.
    otherwise: Option<Reply>,
    /// The lifetime of every record, in seconds.
    ttl: u32,
    asked: HashMap<(String, RecordType), usize>,
    over_tcp: usize,
}

pub(super) struct NameServer {
    pub(super) address: SocketAddr,
    script: Arc<Mutex<Script>>,
    _tasks: JoinSet<()>,
}

/// The largest answer over UDP; a longer one is truncated, and asked for again over TCP.
const MAX_UDP: usize = 1232;

impl NameServer {
    pub(super) async fn start() -> Self {
        let (udp, tcp) = bind().await;
        let address = udp.local_addr().unwrap();
        let script = Arc::new(Mutex::new(Script::default()));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, script.clone()));
        tasks.spawn(serve_tcp(tcp, script.clone()));
        Self { address, script, _tasks: tasks }
    }

    pub(super) fn say(&self, name: &str, reply: Reply) {
        self.script.lock().unwrap().replies.insert(name.to_owned(), reply);
    }

    pub(super) fn say_otherwise(&self, reply: Reply) {
        self.script.lock().unwrap().otherwise = Some(reply);
    }

    pub(super) fn set_ttl(&self, seconds: u32) {
        self.script.lock().unwrap().ttl = seconds;
    }

    /// How often the addresses of a name were asked for.
    pub(super) fn asked(&self, name: &str) -> usize {
        let script = self.script.lock().unwrap();
        script.asked.get(&(name.to_owned(), RecordType::A)).copied().unwrap_or(0)
    }

    pub(super) fn over_tcp(&self) -> usize {
        self.script.lock().unwrap().over_tcp
    }
}

/// One port for both.
async fn bind() -> (UdpSocket, TcpListener) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

async fn serve_udp(socket: UdpSocket, script: Arc<Mutex<Script>>) {
    let mut buffer = vec![0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { return };
        if let Some(reply) = answer(&script, &buffer[..length], MAX_UDP) {
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, script: Arc<Mutex<Script>>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        connections.spawn(serve_connection(stream, script.clone()));
    }
}

async fn serve_connection(mut stream: TcpStream, script: Arc<Mutex<Script>>) {
    while let Ok(length) = stream.read_u16().await {
        let mut query = vec![0; length.into()];
        if stream.read_exact(&mut query).await.is_err() {
            return;
        }
        script.lock().unwrap().over_tcp += 1;
        if let Some(reply) = answer(&script, &query, usize::from(u16::MAX)) {
            let _ = stream.write_u16(u16::try_from(reply.len()).unwrap()).await;
            let _ = stream.write_all(&reply).await;
        }
    }
}

fn answer(script: &Mutex<Script>, query: &[u8], limit: usize) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?.clone();
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_available = true;
    reply.add_query(question.clone());
    let (records, ttl) = {
        let mut script = script.lock().unwrap();
        (script.look_up(question.name(), question.query_type(), 0)?, script.ttl)
    };
    match records {
        Ok(mut records) => {
            records.iter_mut().for_each(|record| record.ttl = ttl);
            reply.add_answers(records);
        }
        Err(code) => reply.metadata.response_code = code,
    }
    if reply.answers.is_empty() {
        reply.add_authority(start_of_authority(question.name(), ttl));
    }
    let bytes = reply.to_vec().unwrap();
    (bytes.len() <= limit).then_some(bytes).or_else(|| reply.truncate().to_vec().ok())
}

impl Script {
    fn look_up(
        &mut self,
        name: &Name,
        kind: RecordType,
        depth: usize,
    ) -> Option<Result<Vec<Record>, ResponseCode>> {
        let key = name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let reply = self.replies.get(&key).or(self.otherwise.as_ref()).cloned();
        let asked = self.asked.entry((key, kind)).or_default();
        *asked += 1;
        let turn = *asked - 1;
        match reply? {
            Reply::Silence => None,
            Reply::Code(code) => Some(Err(code)),
            Reply::AliasAlone(alias) => Some(Ok(vec![alias_record(name, &alias)])),
            Reply::Foreign { owner, address } if kind == RecordType::A => {
                let owner = Name::from_ascii(format!("{owner}.")).unwrap();
                Some(Ok(vec![record(&owner, RData::A(address.parse().unwrap()))]))
            }
            Reply::Foreign { .. } => Some(Ok(Vec::new())),
            Reply::HalfOf(address, _) if kind == RecordType::A => {
                Some(Ok(vec![record(name, RData::A(address.parse().unwrap()))]))
            }
            Reply::HalfOf(_, code) => Some(Err(code)),
            Reply::Records(turns) => {
                let entries = &turns[turn.min(turns.len() - 1)];
                Some(Ok(entries.iter().flat_map(|entry| self.expand(name, kind, entry, depth)).collect()))
            }
        }
    }

    fn expand(&mut self, name: &Name, kind: RecordType, entry: &str, depth: usize) -> Vec<Record> {
        if let Some(alias) = entry.strip_prefix("CNAME ") {
            let mut records = vec![alias_record(name, alias)];
            let alias = Name::from_ascii(format!("{alias}.")).unwrap();
            if depth < 20
                && let Some(Ok(further)) = self.look_up(&alias, kind, depth + 1)
            {
                records.extend(further);
            }
            return records;
        }
        match (entry.parse().unwrap(), kind) {
            (IpAddr::V4(address), RecordType::A) => vec![record(name, RData::A(address.into()))],
            (IpAddr::V6(address), RecordType::AAAA) => vec![record(name, RData::AAAA(address.into()))],
            _ => Vec::new(),
        }
    }
}

/// Says for how long a name has no address.
fn start_of_authority(name: &Name, ttl: u32) -> Record {
    let soa = SOA::new(name.clone(), name.clone(), 1, 3600, 600, 86400, ttl);
    Record::from_rdata(name.clone(), ttl, RData::SOA(soa))
}

fn alias_record(name: &Name, alias: &str) -> Record {
    record(name, RData::CNAME(CNAME(Name::from_ascii(format!("{alias}.")).unwrap())))
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), 0, data)
}
