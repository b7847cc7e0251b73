//! Any method by its path, with messages as bytes, and what the descriptors say of all methods.

use std::collections::BTreeMap;

use prost::Message as _;
use prost::bytes::{Buf as _, BufMut as _};
use prost_types::{DescriptorProto, FileDescriptorSet};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Calls a method, and returns the first message of the answer; none if there is no message.
pub(crate) async fn call(channel: &Channel, path: &str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
    call_with(channel, path, message, MetadataMap::new()).await
}

/// Calls a method with headers.
pub(crate) async fn call_with(
    channel: &Channel,
    path: &str,
    message: Vec<u8>,
    headers: MetadataMap,
) -> Result<Vec<u8>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
    let mut request = Request::new(tokio_stream::once(message));
    *request.metadata_mut() = headers;
    let path = PathAndQuery::try_from(path).unwrap();
    let mut answer = grpc.streaming(request, path, Bytes).await?.into_inner();
    Ok(answer.message().await?.unwrap_or_default())
}

/// Messages as they are on the wire.
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = input.remaining();
        Ok(Some(input.copy_to_bytes(length).to_vec()))
    }
}

/// What a descriptor set says.
pub(crate) struct Descriptors {
    files: FileDescriptorSet,
}

impl Descriptors {
    /// Those of `keyholder.v1`, with all that it imports.
    pub(crate) fn keyholder() -> Self {
        Self::read(keyholder_proto::FILE_DESCRIPTOR_SET)
    }

    /// Those of a set.
    pub(crate) fn read(set: &[u8]) -> Self {
        Self { files: FileDescriptorSet::decode(set).unwrap() }
    }

    /// The path of every method, with the full name of its request.
    pub(crate) fn methods(&self) -> BTreeMap<String, String> {
        let mut methods = BTreeMap::new();
        for file in &self.files.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    methods.insert(path, method.input_type().trim_start_matches('.').to_owned());
                }
            }
        }
        methods
    }

    /// A message by its full name.
    pub(crate) fn message(&self, name: &str) -> &DescriptorProto {
        let name = name.trim_start_matches('.');
        let found = self.files.file.iter().find_map(|file| {
            let short = name.strip_prefix(file.package())?.strip_prefix('.')?;
            file.message_type.iter().find(|message| message.name() == short)
        });
        found.unwrap_or_else(|| panic!("there is no message {name}"))
    }
}
