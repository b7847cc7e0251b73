use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// How many bytes a message is given room for before it is read, and before it is written. More is made where it does not
/// suffice. The library's own 8 KiB for each are four times what a call needs: with many calls in flight they are not in the
/// processor's cache when they are used again.
const READ: usize = 512;
const WRITTEN: usize = 4_096;

/// How many bytes of a stream are gathered before they are sent: the library's own number.
const GATHERED: usize = 32 * 1024;

/// The codec of the generated clients and servers: protobuf, with buffers of the size of the messages.
#[derive(Debug, Clone, Copy)]
pub struct SmallMessages<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallMessages<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + 'static, U: Message + Default + 'static> Codec for SmallMessages<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(WRITTEN, GATHERED))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(READ, GATHERED))
    }
}
