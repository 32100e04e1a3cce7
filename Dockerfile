# Two images: the exporter (the default), and with `--target lab` the limiter nodes that deploy/compose watches.
#
# The binaries are linked against glibc, not static ones of musl: musl's allocator is slow where several threads allocate,
# as they do here, and ring, which compiles C, would need a second toolchain. distroless/cc has the same Debian 12 glibc
# as the builder, the certificate roots that https:// URLs are checked against, and no shell.
#
# Both bases are arguments, so that a mirror can stand in for them. What they need: BUILD_BASE Rust and a C compiler;
# RUN_BASE a glibc no older than that of BUILD_BASE, libgcc_s and certificate roots. `make image-test` builds with bases
# from Debian's packages.
ARG BUILD_BASE=docker.io/library/rust:1.89-slim-bookworm
ARG RUN_BASE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_BASE} AS manifests
WORKDIR /build
# Dependencies first, against empty sources, so that they are built again only when a manifest changes. Cargo wants every
# member of the workspace and every file that a manifest names or implies, also those that are not built.
COPY Cargo.toml Cargo.lock ./
COPY lab/Cargo.toml lab/Cargo.toml
RUN mkdir -p src lab/src benches/replay benches/scale tests/integration tests/limiters tests/soak tests/truth \
    && mkdir -p tests/limiters/running && touch tests/limiters/running/main.rs \
    && echo 'fn main() {}' >src/main.rs \
    && echo 'fn main() {}' >lab/src/main.rs \
    && touch src/lib.rs lab/src/lib.rs benches/replay/main.rs benches/scale/main.rs tests/integration/main.rs tests/limiters/main.rs tests/soak/main.rs tests/truth/main.rs

FROM manifests AS build-lab
RUN cargo build --release --locked -p lab
# Cargo goes by modification times, and those of the checkout may be older than the empty sources.
COPY lab/src lab/src
RUN find lab/src -name '*.rs' -exec touch {} + \
    && cargo build --release --locked -p lab \
    && mkdir -p /out \
    && cp target/release/lab /out/

FROM manifests AS build
RUN cargo build --release --locked -p ratelimiter-exporter
COPY limiters limiters
COPY src src
ARG REVISION=unknown
RUN find src -name '*.rs' -exec touch {} + \
    && BUILD_REVISION="$REVISION" BUILD_RUSTVERSION="$(rustc --version | cut -d ' ' -f 2)" \
        cargo build --release --locked -p ratelimiter-exporter \
    && mkdir -p /out \
    && cp target/release/ratelimiter-exporter /out/

FROM ${RUN_BASE} AS lab
COPY --from=build-lab /out/lab /usr/local/bin/lab
EXPOSE 8000
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/lab"]

# Nothing is ever written but what `--state.file` names: the root file system may be read-only.
FROM ${RUN_BASE} AS exporter
COPY --from=build /out/ratelimiter-exporter /usr/local/bin/ratelimiter-exporter
EXPOSE 9972
# Large blocks go back to the system as soon as they are freed. By itself, glibc keeps blocks as large as the largest one that was
# freed: with a key of 8 MB in Redis, 144 MiB stayed in use. With this it was 56 MiB.
ENV MALLOC_MMAP_THRESHOLD_=131072
# By number (distroless calls it nonroot): Kubernetes's runAsNonRoot cannot tell what a name stands for.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/ratelimiter-exporter"]
