#!/usr/bin/env bash
# The aws CLI as its users type it, without a special flag, against the endpoint that the environment names:
# AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY. Every byte that comes back is compared. Ends with 0 when all of
# it worked, and says on the way what it does. Run by tests/tests/clients.rs.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
# Nothing of the one who runs this counts.
export AWS_CONFIG_FILE=$work/none AWS_SHARED_CREDENTIALS_FILE=$work/none AWS_EC2_METADATA_DISABLED=true
export AWS_DEFAULT_REGION=us-east-1 AWS_PAGER=
unset AWS_PROFILE AWS_SESSION_TOKEN AWS_REGION

say() { printf '%s\n' "- $*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
# A step must fail, with this in what it says.
refused() {
    local wanted=$1 said
    shift
    if said=$("$@" 2>&1); then fail "$* was not refused"; fi
    grep -q "$wanted" <<<"$said" || fail "$* said: $said"
}

say "mb, twice, and into a bucket that is not there"
aws s3 mb s3://cli
aws s3 ls | grep -q ' cli$' || fail "the bucket is not listed"
printf x > one
refused NoSuchBucket aws s3 cp one s3://not-there/one

for len in 0 1 5242880 104857600; do
    say "cp of $len bytes, up and down"
    head -c "$len" /dev/urandom > up
    aws s3 cp --quiet up "s3://cli/sizes/$len"
    rm -f down
    aws s3 cp --quiet "s3://cli/sizes/$len" down
    cmp up down || fail "$len bytes came back changed"
done
aws s3 ls --human-readable --summarize s3://cli/sizes/
test "$(aws s3 ls s3://cli/sizes/ | wc -l)" = 4 || fail "ls does not show four objects"
test "$(aws s3 ls s3://cli/)" = "                           PRE sizes/" || fail "ls does not show the prefix"

say "cp out of a pipe and into one"
seq 100000 | aws s3 cp --quiet - s3://cli/piped
aws s3 cp --quiet s3://cli/piped - | cmp - <(seq 100000) || fail "the pipe came back changed"

say "sync of a tree with odd names, there and back"
mkdir -p "tree/a b/c" tree/ü tree/plus+and tree/.hidden
names=("plain" "a b/with blank" "a b/c/deep" "ü/日本語" "plus+and/x+y" "amper&sand" "percent%20" "hash#" "quote'\"" ".hidden/.file" "eq=a,b;c" "tilde~" "quest?on" "br[ack]et{s}")
for name in "${names[@]}"; do printf 'this is %s\n' "$name" > "tree/$name"; done
: > tree/empty
aws s3 sync --quiet tree s3://cli/tree
test "$(aws s3 ls --recursive s3://cli/tree/ | wc -l)" = $((${#names[@]} + 1)) || fail "not every file of the tree is there"
aws s3 ls --recursive s3://cli/tree/
aws s3 sync --quiet s3://cli/tree back
diff -r tree back || fail "the tree came back changed"
test -z "$(aws s3 sync tree s3://cli/tree)" || fail "a sync of what is there already moved something"
rm "tree/quest?on"
printf 'changed, and longer\n' > tree/plain
aws s3 sync --delete tree s3://cli/tree
aws s3 sync --quiet --delete s3://cli/tree back
diff -r tree back || fail "a sync with --delete does not make the same tree"

say "cp and mv within the store"
aws s3 cp --quiet s3://cli/sizes/5242880 s3://cli/copies/small
# Version 2 of the CLI asks for the tags of an object that it copies in parts, and tags are not in this version of ours.
if [[ $(aws --version) == aws-cli/1.* ]]; then
    aws s3 cp --quiet s3://cli/sizes/104857600 s3://cli/copies/large
    aws s3 cp --quiet s3://cli/copies/large down
    cmp up down || fail "the copy of 100 MiB differs"
fi
aws s3 mv --quiet s3://cli/copies/small s3://cli/copies/moved
refused 404 aws s3 cp s3://cli/copies/small down

say "presign and fetch"
url=$(aws s3 presign s3://cli/sizes/5242880 --expires-in 60)
if command -v curl > /dev/null; then
    curl -sSf -o fetched "$url"
else
    python3 -c 'import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1]).read())' "$url" > fetched
fi
aws s3 cp --quiet s3://cli/sizes/5242880 down
cmp fetched down || fail "what the URL gave is not the object"

say "s3api: metadata, a range, a condition, versions of lists"
aws s3api put-object --bucket cli --key meta --body one --content-type text/x --metadata a=1,b=2 > put.json
aws s3api head-object --bucket cli --key meta | grep -q '"ContentType": "text/x"' || fail "the type is gone"
aws s3api get-object --bucket cli --key piped --range bytes=0-1 ranged > /dev/null
test "$(cat ranged)" = 1 || fail "the range is another one"
refused PreconditionFailed aws s3api put-object --bucket cli --key meta --body one --if-none-match '*'
test "$(aws s3api list-objects-v2 --bucket cli --prefix sizes/ --page-size 1 --query 'length(Contents)')" = 4 || fail "pages"
aws s3api get-bucket-location --bucket cli > /dev/null

say "rm, rb of a bucket that is not empty, rb --force"
aws s3 rm --quiet s3://cli/meta
refused 404 aws s3api head-object --bucket cli --key meta
aws s3 rm --quiet --recursive s3://cli/tree
test -z "$(aws s3 ls s3://cli/tree/)" || fail "rm --recursive left something"
refused BucketNotEmpty aws s3 rb s3://cli
aws s3 rb --force s3://cli
test -z "$(aws s3 ls)" || fail "the bucket is still listed"
say "all of it worked"
