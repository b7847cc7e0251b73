//! Generates the Rust code and the descriptor set from `proto/`, and fails when what is committed differs.
//!
//! `make gen` runs this with `UPDATE_GENERATED=1`, which writes instead of comparing. The compiler of the
//! protos is protox, so that nobody needs protoc.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost_reflect::{DescriptorPool, MessageDescriptor};
use protox::Compiler;

const CODE: &str = "keyholder.v1.rs";
const DESCRIPTORS: &str = "keyholder.v1.binpb";

#[test]
fn generated_files_are_current() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated");
    let generated = generate();
    if env::var_os("UPDATE_GENERATED").is_some() {
        for (name, content) in &generated {
            fs::write(committed.join(name), content).unwrap();
        }
        return;
    }
    for (name, content) in &generated {
        let current = fs::read(committed.join(name)).unwrap_or_default();
        assert!(current == *content, "{name} is not what proto/ says: run `make gen` and commit the result");
    }
}

#[test]
fn a_message_with_a_secret_prints_its_name_only() {
    let pool = compile(&proto_dir()).descriptor_pool();
    let names: Vec<String> = redacted(&pool).iter().map(|message| message.name().to_owned()).collect();
    for name in ["CreateConnectionRequest", "ReplaceCredentialsRequest", "ApiKeyCredential", "HttpInjection"]
    {
        assert!(
            names.iter().any(|found| found == name),
            "{name} holds a secret and is not marked debug_redact"
        );
    }
}

fn proto_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto")
}

fn compile(protos: &Path) -> Compiler {
    let mut files: Vec<PathBuf> = fs::read_dir(protos.join("keyholder/v1"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "proto"))
        .collect();
    files.sort();
    let mut compiler = Compiler::new([protos]).unwrap();
    compiler.include_imports(true).include_source_info(true).open_files(files).unwrap();
    compiler
}

fn generate() -> BTreeMap<&'static str, Vec<u8>> {
    let compiler = compile(&proto_dir());
    let redacted = redacted(&compiler.descriptor_pool());
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .btree_map(".")
        .codec_path("crate::SmallMessages")
        .skip_debug(redacted.iter().map(|message| format!(".{}", message.full_name())))
        .out_dir(out.path())
        .compile_fds(compiler.file_descriptor_set())
        .unwrap();
    let mut code = fs::read_to_string(out.path().join(CODE)).unwrap();
    for message in redacted {
        write!(code, "{}", name_only_debug(message.name())).unwrap();
    }
    BTreeMap::from([(CODE, code.into_bytes()), (DESCRIPTORS, compiler.encode_file_descriptor_set())])
}

/// The messages with a field that is marked `debug_redact`.
fn redacted(pool: &DescriptorPool) -> Vec<MessageDescriptor> {
    let marked = |message: &MessageDescriptor| {
        message.fields().any(|field| {
            let options = field.options();
            options.get_field_by_name("debug_redact").is_some_and(|value| value.as_bool() == Some(true))
        })
    };
    pool.all_messages().filter(|message| !message.is_map_entry()).filter(marked).collect()
}

fn name_only_debug(name: &str) -> String {
    // prost writes OAuth2Credential as OAuth2Credential, but an acronym such as HTTPThing as HttpThing: the
    // protos avoid such names, and the generated code would not compile if one slipped in.
    format!(
        "impl ::core::fmt::Debug for {name} {{\n    \
         fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{\n        \
         f.write_str(\"{name}([REDACTED])\")\n    }}\n}}\n"
    )
}
