//! The one client through which workers reach the internet.
use bytes::Bytes;
type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type ReqBody = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;
pub type ResBody = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;
#[derive(Clone, Copy, Debug)]
pub enum DecodeBody { Yes, No }
#[derive(Clone, Debug, Default)]
pub struct OutboundOptions { pub allow: Vec<ipnet::IpNet> }
#[derive(Clone)]
pub struct Outbound;
#[derive(Debug, thiserror::Error)]
#[error("not there yet")]
pub struct OutboundError;
impl Outbound {
    pub fn new(_: OutboundOptions) -> Self { Self }
    pub async fn send(&self, _: http::Request<ReqBody>) -> Result<http::Response<ResBody>, OutboundError> { Err(OutboundError) }
}
