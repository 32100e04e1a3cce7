# The exporter alone, dynamically linked against glibc.
#
# Not a static musl binary: musl's allocator is slow where several threads allocate, as they do here, and ring, which
# compiles C, would need a second toolchain. distroless/cc has the same Debian 12 glibc as the builder, the certificate
# roots that https:// URLs are checked against, and no shell.

FROM rust:1.89-slim-bookworm AS build
WORKDIR /build

# Dependencies first, against empty sources, so that they are built again only when a manifest changes. lab is a
# member of the workspace and the tests are named in the manifest, so cargo wants them there; none is built.
COPY Cargo.toml Cargo.lock ./
COPY lab/Cargo.toml lab/Cargo.toml
RUN mkdir -p src lab/src benches/scale tests/integration tests/truth \
    && echo 'fn main() {}' >src/main.rs \
    && touch src/lib.rs lab/src/lib.rs benches/scale/main.rs tests/integration/main.rs tests/truth/main.rs \
    && cargo build --release --locked -p ratelimiter-exporter

# cargo goes by modification times, and those of the checkout may be older than the empty sources.
COPY src src
ARG REVISION=unknown
RUN find src -name '*.rs' -exec touch {} + \
    && BUILD_REVISION="$REVISION" BUILD_RUSTVERSION="$(rustc --version | cut -d ' ' -f 2)" \
        cargo build --release --locked -p ratelimiter-exporter

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/ratelimiter-exporter /usr/local/bin/ratelimiter-exporter
EXPOSE 9972
USER nonroot
ENTRYPOINT ["/usr/local/bin/ratelimiter-exporter"]
