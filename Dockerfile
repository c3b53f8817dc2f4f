# Remora's four images, each one static binary on nothing:
#   docker build --target proxy -t remora/proxy:0.1.0 .
#   docker build --target control-plane -t remora/control-plane:0.1.0 .
#   docker build --target injector -t remora/injector:0.1.0 .
#   docker build --target demo -t remora/demo:0.1.0 .
# `tests/kube/images` makes the same ones without an engine.
FROM rust:1-bookworm AS build
WORKDIR /remora
COPY . .
# Only the last step of each gets the C library put in: build scripts and
# procedural macros of the other crates stay dynamic.
RUN for pair in remora-proxy:remora-proxy remora-control-plane:remora-control-plane \
        remora-injector:remora-injector remora:remora; do \
      cargo rustc --release --locked -p "${pair%%:*}" --bin "${pair##*:}" -- \
        -C target-feature=+crt-static -C strip=symbols || exit 1; \
    done

FROM scratch AS proxy
COPY --from=build /remora/target/release/remora-proxy /bin/remora-proxy
ENV PATH=/bin
USER 2102:2102
ENTRYPOINT ["/bin/remora-proxy"]

FROM scratch AS control-plane
COPY --from=build /remora/target/release/remora-control-plane /bin/remora-control-plane
ENV PATH=/bin
USER 2101:2101
ENTRYPOINT ["/bin/remora-control-plane"]

FROM scratch AS injector
COPY --from=build /remora/target/release/remora-injector /bin/remora-injector
ENV PATH=/bin
USER 2101:2101
ENTRYPOINT ["/bin/remora-injector"]

FROM scratch AS demo
COPY --from=build /remora/target/release/remora /bin/remora
ENV PATH=/bin
USER 2103:2103
ENTRYPOINT ["/bin/remora"]
