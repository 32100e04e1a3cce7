//! A load balancer on loopback: each connection goes to the next of its targets that accepts it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// A running balancer; dropping it closes the port and every connection.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    _acceptor: AbortOnDropHandle<()>,
}

impl Balancer {
    /// Listens on a free port of 127.0.0.1 and passes connections on to `targets` (`HOST:PORT`) in turn.
    pub async fn start(targets: Vec<String>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", crate::ports::free_port())).await?;
        let address = listener.local_addr()?;
        let targets = Arc::new(targets);
        let acceptor = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            let mut turn = 0;
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((client, _)) = accepted {
                        connections.spawn(relay(client, Arc::clone(&targets), turn));
                        turn += 1;
                    },
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self {
            address,
            _acceptor: AbortOnDropHandle::new(acceptor),
        })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn relay(mut client: TcpStream, targets: Arc<Vec<String>>, turn: usize) {
    for step in 0..targets.len() {
        let target = &targets[(turn + step) % targets.len()];
        if let Ok(mut server) = TcpStream::connect(target).await {
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}
