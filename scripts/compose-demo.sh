#!/usr/bin/env bash
# The whole story with Docker: a client writes to an S3 name, the site behind it is killed, the other site is promoted, the
# name is moved, and the same client reads everything back under the same name. Ends with 0 if nothing is missing.
#   scripts/compose-demo.sh [--program FILE] [--keep]
#     --program FILE   take this built program for the sites instead of compiling one in the image (5 to 15 minutes)
#     --keep           leave everything running
# COMPOSE_PROJECT_NAME names what it makes, so that two can run beside each other; all of it is removed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
export COMPOSE_PROJECT_NAME="${COMPOSE_PROJECT_NAME:-lockstep-demo}"
export LOCKSTEP_TAG="${LOCKSTEP_TAG:-demo}"
export LOCKSTEP_PACE="${LOCKSTEP_PACE:-0.1}"
# Objects that are written before the failure, and after it.
OBJECTS=20

program=
keep=0
while [ $# -gt 0 ]; do
  case "$1" in
    --program) program=${2:?"--program needs a file"}; shift 2 ;;
    --keep) keep=1; shift ;;
    *) echo "usage: $0 [--program FILE] [--keep]" >&2; exit 2 ;;
  esac
done

say() { echo "lockstep: $*"; }
fail() { echo "lockstep: $*" >&2; exit 1; }

docker info >/dev/null 2>&1 || fail "no Docker engine answers: 'docker info' says why"
if docker compose version >/dev/null 2>&1; then
  compose() { docker compose "$@"; }
elif command -v docker-compose >/dev/null; then
  compose() { docker-compose "$@"; }
else
  fail "neither 'docker compose' nor docker-compose is installed"
fi

work=$(mktemp -d)
finish() {
  local code=$?
  if [ "$code" -ne 0 ]; then
    compose logs --tail 40 >&2 || true
  fi
  if [ "$keep" = 0 ]; then
    compose down --volumes >"$work/down" 2>&1 || cat "$work/down" >&2
  fi
  # What the build of a given program leaves behind: the next one is another program.
  docker image prune --force --filter label=lockstep.stage=program >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap finish EXIT

# Its output is shown only when it fails.
quietly() {
  "$@" >"$work/log" 2>&1 || { tail -n 40 "$work/log" >&2; fail "failed: $*"; }
}

# Waits until the client's diary holds so many objects.
wait_for_objects() {
  local deadline=$((SECONDS + 120)) count
  while count=$(compose exec -T client s3-client count 2>/dev/null || echo 0); [ "$count" -lt "$1" ]; do
    [ "$SECONDS" -lt "$deadline" ] || fail "the client has $count acknowledged objects after 120 s, $1 are needed"
    sleep 1
  done
  say "the client has $count acknowledged objects"
}

scripts/compose/base-image.sh
if [ -n "$program" ]; then
  say "building the images around $program"
  mkdir -p "$work/context/dist" "$work/context/scripts"
  cp "$program" "$work/context/dist/lockstep"
  cp -r scripts/compose "$work/context/scripts/"
  cp Dockerfile "$work/context/"
  quietly docker build --tag "lockstep-site:$LOCKSTEP_TAG" --build-arg PROGRAM=given --target site "$work/context"
  quietly compose build dns client
else
  say "building the images (the storage engine is compiled the first time: 5 to 15 minutes on two cores)"
  compose build
fi
say "starting two sites, a name server and a client"
quietly compose up -d
wait_for_objects "$OBJECTS"
say "killing site-a (SIGKILL)"
quietly compose kill -s SIGKILL site-a
say "promoting site-b: lockstep promote site-a"
compose exec -T site-b lockstep promote site-a
say "moving the name: point-s3-at site-b"
compose exec -T dns point-s3-at site-b
before=$(compose exec -T client s3-client count)
wait_for_objects $((before + OBJECTS))
say "reading everything back under the same name"
compose exec -T client s3-client verify || fail "something that was acknowledged is not there"
epochs=$(compose logs --no-color client | grep -o 'site-a/[^/]*/' | sort -u | wc -l)
[ "$epochs" -ge 2 ] || fail "all writes were acknowledged under one epoch: site-b took none"
say "everything that was acknowledged was read back"
if [ "$keep" = 1 ]; then
  say "left running; docker-compose.yml says what to try. Clean up: COMPOSE_PROJECT_NAME=$COMPOSE_PROJECT_NAME LOCKSTEP_TAG=$LOCKSTEP_TAG docker compose down --volumes"
fi
