//! A node inside a program of one's own: configuration in, a running node, a request, a drain.
//! `cargo run --example embedded`

use std::error::Error;

use holm::{app::App, config};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let origin = TcpListener::bind("127.0.0.1:0").await?;
    let text = format!(
        "listen = [{{ address = \"127.0.0.1:0\" }}]\n[log]\naccess = \"off\"\n[pool.site]\nendpoints = [\"http://{}\"]\n",
        origin.local_addr()?
    );
    tokio::spawn(greet(origin));

    let app = App::start(config::parse("embedded.toml", &text)?).await?;
    let address = app.addresses()[0];
    let drain = CancellationToken::new();
    let running = tokio::spawn(app.run(drain.clone()));

    for _ in 0..2 {
        let mut client = TcpStream::connect(address).await?;
        client.write_all(b"GET /hello HTTP/1.1\r\nhost: example.org\r\nconnection: close\r\n\r\n").await?;
        let mut response = String::new();
        client.read_to_string(&mut response).await?;
        println!("{response}\n");
    }

    drain.cancel();
    let drained = running.await?;
    println!("drained: {} connections finished, {} cut", drained.finished, drained.cut);
    Ok(())
}

/// An origin that sends the same response to each request.
async fn greet(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut request = [0; 4096];
        if stream.read(&mut request).await.is_ok() {
            let response = "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 6\r\n\r\nhello\n";
            // A client that has gone is none of this origin's business.
            let _ = stream.write_all(response.as_bytes()).await;
        }
    }
}
