//! The HTTP roles: web, catalog, cart, payment.

use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::client::{Call, CallError, Client};
use super::inventory;
use super::server::{self, Handler, json, not_found};

/// How long web waits for another role.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(4);
/// The longest order that is read.
const MAX_ORDER_BYTES: usize = 64 * 1024;
/// The products there are.
const PRODUCTS: u32 = 20;

/// The shop's front.
pub struct Web {
    /// Whom it asks for products.
    pub catalog: Arc<Client>,
    /// Whom it asks for the cart.
    pub cart: Arc<Client>,
    /// Whom it has take the money.
    pub payment: Arc<Client>,
}

impl Handler for Web {
    async fn handle(&self, request: Request<Incoming>) -> server::Answer {
        let products = Call::get("/products");
        let cart = Call::get("/cart");
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/") => {
                let (products, cart) = tokio::join!(
                    ask(&self.catalog, "catalog", &products),
                    ask(&self.cart, "cart", &cart)
                );
                match (products, cart) {
                    (Ok(products), Ok(cart)) => page(&products, &cart),
                    (Err(refusal), _) | (_, Err(refusal)) => refusal,
                }
            }
            (&Method::GET, "/products") => passed(ask(&self.catalog, "catalog", &products).await),
            (&Method::GET, "/cart") => passed(ask(&self.cart, "cart", &cart).await),
            (&Method::POST, "/checkout") => {
                if let Err(refusal) = read_order(request).await {
                    return refusal;
                }
                let charge = Call::post("/charge", r#"{"cents":4200}"#);
                passed(ask(&self.payment, "payment", &charge).await)
            }
            _ => not_found(),
        }
    }
}

/// The front page: both answers are JSON already.
fn page(products: &Bytes, cart: &Bytes) -> server::Answer {
    let mut body = Vec::with_capacity(products.len() + cart.len() + 32);
    body.extend_from_slice(br#"{"catalog":"#);
    body.extend_from_slice(products);
    body.extend_from_slice(br#","cart":"#);
    body.extend_from_slice(cart);
    body.push(b'}');
    json(StatusCode::OK, body)
}

/// Asks another role; its refusal becomes ours.
async fn ask(client: &Client, name: &str, call: &Call) -> Result<Bytes, server::Answer> {
    let (status, error) = match client.call(call, UPSTREAM_TIMEOUT).await {
        Ok(answer) if answer.status.is_success() => return Ok(answer.body),
        Ok(answer) => {
            let reason = answer.reason.unwrap_or_else(|| "its own".to_owned());
            let error = format!("{name} answered {} ({reason})", answer.status.as_u16());
            (answer.status, error)
        }
        Err(error @ CallError::Timeout(_)) => {
            (StatusCode::GATEWAY_TIMEOUT, format!("{name}: {error}"))
        }
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{name}: {error}")),
    };
    let body = serde_json::json!({"error": error}).to_string();
    Err(json(status, body))
}

fn passed(asked: Result<Bytes, server::Answer>) -> server::Answer {
    asked.map_or_else(|refusal| refusal, |body| json(StatusCode::OK, body))
}

/// Reads the body to its end, so that the connection stays good.
async fn read_order(request: Request<Incoming>) -> Result<(), server::Answer> {
    let body = Limited::new(request.into_body(), MAX_ORDER_BYTES);
    let read = body.collect().await;
    read.map(|_| ())
        .map_err(|_| json(StatusCode::BAD_REQUEST, r#"{"error":"bad order"}"#))
}

/// What there is to buy.
pub struct Catalog;

static LIST: LazyLock<Bytes> = LazyLock::new(|| {
    let pod = std::env::var("HOSTNAME").unwrap_or_default();
    let products: Vec<_> = (1..=PRODUCTS)
        .map(|id| serde_json::json!({"id": id, "name": format!("Fish {id}"), "cents": 100 * id}))
        .collect();
    serde_json::json!({"pod": pod, "products": products})
        .to_string()
        .into()
});

impl Handler for Catalog {
    async fn handle(&self, request: Request<Incoming>) -> server::Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/products") => json(StatusCode::OK, LIST.clone()),
            _ => not_found(),
        }
    }
}

/// What somebody is about to buy.
pub struct Cart {
    /// Whom it asks how many there are.
    pub inventory: inventory::Client,
}

impl Handler for Cart {
    async fn handle(&self, request: Request<Incoming>) -> server::Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/cart") => {
                // A cart is a cart also while nobody knows the stock.
                let (stock, error) = match self.inventory.stock(7).await {
                    Ok(stock) => (Some(stock), None),
                    Err(error) => (None, Some(error.to_string())),
                };
                let items = serde_json::json!([{"id": 7, "count": 2, "stock": stock}]);
                let body = serde_json::json!({"items": items, "inventory_error": error});
                json(StatusCode::OK, body.to_string())
            }
            _ => not_found(),
        }
    }
}

/// Takes the money.
pub struct Payment {
    /// Which version it says it is.
    pub version: String,
}

impl Handler for Payment {
    async fn handle(&self, request: Request<Incoming>) -> server::Answer {
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/charge") => {
                if let Err(refusal) = read_order(request).await {
                    return refusal;
                }
                let body = serde_json::json!({"paid": true, "version": self.version});
                json(StatusCode::OK, body.to_string())
            }
            _ => not_found(),
        }
    }
}

/// What others thought of it. Nothing in the shop needs it: scenarios make trouble here.
pub struct Reviews;

impl Handler for Reviews {
    async fn handle(&self, request: Request<Incoming>) -> server::Answer {
        if let Err(refusal) = read_order(request).await {
            return refusal;
        }
        json(StatusCode::OK, r#"{"stars":[5,4,5]}"#)
    }
}

/// A role without HTTP of its own.
pub struct Nothing;

impl Handler for Nothing {
    async fn handle(&self, _: Request<Incoming>) -> server::Answer {
        not_found()
    }
}
