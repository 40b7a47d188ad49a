#!/bin/sh
# Moves a DNS name to this node when it becomes the source of an origin: an example of what to put in `[failover]`.
#
#     [failover]
#     on_change = ["/etc/lockstep/dns-nsupdate.sh", "--server", "192.0.2.53", "--zone", "example.", "--key",
#                  "/etc/lockstep/dns.key", "--name", "s3.site-a.example.", "--address", "192.0.2.1", "--origin", "site-a"]
#
# Each node names its own address. Every argument may come from the environment instead: DNS_SERVER, DNS_PORT, DNS_ZONE,
# DNS_NAME, DNS_ADDRESS, DNS_KEY, DNS_TTL, DNS_ORIGIN. The key file is one of `tsig-keygen`'s; the zone must let the key update
# the name. The wildcard below the name (buckets as host names) moves with it where --wildcard is given.
#
# A node that becomes a destination, or is fenced, changes nothing: the record is the new source's business. Ends with 0 only
# when the name server has taken the update; until then Lockstep tries again while the role is current.
set -eu

server=${DNS_SERVER:-} port=${DNS_PORT:-53} zone=${DNS_ZONE:-} name=${DNS_NAME:-} address=${DNS_ADDRESS:-}
key=${DNS_KEY:-} ttl=${DNS_TTL:-30} origin=${DNS_ORIGIN:-} wildcard=${DNS_WILDCARD:-}

fail() {
  echo "dns-nsupdate: $1" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  if [ "$1" = --wildcard ]; then
    wildcard=1
    shift
    continue
  fi
  [ $# -ge 2 ] || fail "$1 needs a value"
  case $1 in
    --server) server=$2 ;;
    --port) port=$2 ;;
    --zone) zone=$2 ;;
    --name) name=$2 ;;
    --address) address=$2 ;;
    --key) key=$2 ;;
    --ttl) ttl=$2 ;;
    --origin) origin=$2 ;;
    *) fail "$1 is not known" ;;
  esac
  shift 2
done

for needed in server zone name address key; do
  eval "value=\$$needed"
  [ -n "$value" ] || fail "--$needed is missing"
  # A line of its own would be a command to nsupdate.
  case $value in *[[:space:]]*) fail "--$needed has blanks in it" ;; esac
done
case $port$ttl in *[!0-9]*) fail "--port and --ttl are numbers" ;; esac
# Without an end they would be relative to nobody knows what.
zone=${zone%.}. name=${name%.}.

if [ -n "$origin" ] && [ "${LOCKSTEP_ORIGIN:-}" != "$origin" ]; then
  echo "${LOCKSTEP_ORIGIN:-no origin} is not $origin: nothing to do"
  exit 0
fi
if [ "${LOCKSTEP_ROLE:-}" != source ]; then
  echo "this node is ${LOCKSTEP_ROLE:-nothing} for ${LOCKSTEP_ORIGIN:-no origin}: nothing to do"
  exit 0
fi

case $address in
  *:*) type=AAAA ;;
  *) type=A ;;
esac

# What one update says is done as a whole or not at all. Both address types go: an old one would lead to the other node.
point() {
  printf 'update delete %s A\nupdate delete %s AAAA\nupdate add %s %s %s %s\n' "$1" "$1" "$1" "$ttl" "$type" "$address"
}

{
  printf 'server %s %s\nzone %s\n' "$server" "$port" "$zone"
  point "$name"
  if [ -n "$wildcard" ]; then
    point "*.$name"
  fi
  printf 'send\n'
} | nsupdate -k "$key" -t 10

echo "$name is $address now ($LOCKSTEP_ORIGIN, epoch ${LOCKSTEP_EPOCH:-?}, seq ${LOCKSTEP_SEQ:-?})"
