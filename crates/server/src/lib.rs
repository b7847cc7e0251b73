//! The Keyholder binary: gRPC adapters, configuration, telemetry, command line.
