# The images of the two-site demo (docker-compose.yml): a site, its name server, its client.
#
# The program is compiled here from this source. Where it is built already, on a system with the same C library or an older
# one, --build-arg PROGRAM=given takes dist/lockstep instead.

FROM debian:bookworm-slim AS dns
RUN command -v dnsmasq >/dev/null \
  || (apt-get update && apt-get install -y --no-install-recommends dnsmasq-base && rm -rf /var/lib/apt/lists/*)
COPY scripts/compose/name-server scripts/compose/point-s3-at /usr/local/bin/
CMD ["name-server"]

FROM debian:bookworm-slim AS client
RUN command -v curl >/dev/null \
  || (apt-get update && apt-get install -y --no-install-recommends curl && rm -rf /var/lib/apt/lists/*)
COPY scripts/compose/s3-client /usr/local/bin/
CMD ["s3-client"]

FROM debian:bookworm-slim AS program
LABEL lockstep.stage=program
ARG PROGRAM=source
WORKDIR /src
COPY . .
RUN if [ "$PROGRAM" = given ]; then cp dist/lockstep /lockstep; else \
      apt-get update && apt-get install -y --no-install-recommends make && make build V=1 && cp target/release/lockstep /lockstep; \
    fi

FROM debian:bookworm-slim AS site
COPY --from=program /lockstep /usr/local/bin/lockstep
# Says here, not at the first start, when a given program was built for another C library.
RUN lockstep --version
COPY scripts/compose/*.toml scripts/compose/mirror.key /etc/lockstep/
RUN useradd --system lockstep && install -d -o lockstep /var/lib/lockstep
USER lockstep
VOLUME /var/lib/lockstep
# S3, admin, mirror.
EXPOSE 9000 9001 9002
CMD ["lockstep", "serve"]
