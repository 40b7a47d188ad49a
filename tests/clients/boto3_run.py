"""boto3 as its users write it, without a special setting, against the endpoint that the environment names:
AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY. Ends with 0 when all of it worked. Run by tests/tests/clients.rs.
"""

import hashlib
import http.client
import io
import os
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request

import boto3
from botocore.exceptions import ClientError

KEYS = ["plain", "a b/ü/日本語", "plus+and&=", "percent%20", "quote'\"<>", "//", "x" * 1024, "tab\tnewline\n"]


def say(what):
    print("-", what, flush=True)


def refused(code, call, **arguments):
    """The call must be refused with this code."""
    try:
        call(**arguments)
    except ClientError as error:
        got = error.response["Error"]["Code"]
        assert got == code, f"{got} instead of {code}"
        return error.response
    raise AssertionError(f"not refused with {code}")


def files(s3, work):
    for length in (0, 1, 5 << 20, (16 << 20) + 3):
        say(f"upload_file and download_file of {length} bytes")
        data = os.urandom(length)
        up, down = os.path.join(work, "up"), os.path.join(work, "down")
        with open(up, "wb") as file:
            file.write(data)
        s3.upload_file(up, "boto", f"files/{length}", ExtraArgs={"Metadata": {"length": str(length)}})
        s3.download_file("boto", f"files/{length}", down)
        with open(down, "rb") as file:
            assert file.read() == data, f"{length} bytes came back changed"
        head = s3.head_object(Bucket="boto", Key=f"files/{length}")
        assert head["ContentLength"] == length and head["Metadata"] == {"length": str(length)}
    buffer = io.BytesIO()
    s3.upload_fileobj(io.BytesIO(b"streamed"), "boto", "files/stream")
    s3.download_fileobj("boto", "files/stream", buffer)
    assert buffer.getvalue() == b"streamed"


def objects(s3):
    say("put and get, ranges, conditions, checksums, odd keys")
    for key in KEYS:
        put = s3.put_object(Bucket="boto", Key="keys/" + key[:1019], Body=key.encode())
        assert put["ETag"] == f'"{hashlib.md5(key.encode()).hexdigest()}"'
        got = s3.get_object(Bucket="boto", Key="keys/" + key[:1019])
        assert got["Body"].read() == key.encode() and got["LastModified"]
    listed = [item["Key"] for item in s3.list_objects_v2(Bucket="boto", Prefix="keys/")["Contents"]]
    assert listed == sorted(("keys/" + key[:1019] for key in KEYS), key=lambda key: key.encode()), listed
    assert s3.get_object(Bucket="boto", Key="keys/plain", Range="bytes=1-3")["Body"].read() == b"lai"
    refused("InvalidRange", s3.get_object, Bucket="boto", Key="keys/plain", Range="bytes=99-")
    refused("NoSuchKey", s3.get_object, Bucket="boto", Key="missing")
    refused("404", s3.head_object, Bucket="boto", Key="missing")
    refused("NoSuchBucket", s3.list_objects_v2, Bucket="nowhere")
    refused("PreconditionFailed", s3.put_object, Bucket="boto", Key="keys/plain", Body=b"", IfNoneMatch="*")
    refused("304", s3.get_object, Bucket="boto", Key="keys/plain", IfNoneMatch=put_etag(s3, "keys/plain"))
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        s3.put_object(Bucket="boto", Key="sum", Body=b"123456789", ChecksumAlgorithm=algorithm)
        got = s3.get_object(Bucket="boto", Key="sum", ChecksumMode="ENABLED")
        assert got["Body"].read() == b"123456789" and f"Checksum{algorithm}" in got
    s3.put_object(Bucket="boto", Key="meta", Body=b"", ContentType="text/x", CacheControl="no-cache", Metadata={"a": "1"})
    head = s3.head_object(Bucket="boto", Key="meta")
    assert (head["ContentType"], head["CacheControl"], head["Metadata"]) == ("text/x", "no-cache", {"a": "1"})


def put_etag(s3, key):
    return s3.head_object(Bucket="boto", Key=key)["ETag"]


def lists(s3):
    say("paginators")
    for number in range(25):
        s3.put_object(Bucket="boto", Key=f"pages/{number % 5}/{number:02}", Body=b"")
    for operation in ("list_objects", "list_objects_v2"):
        pages = s3.get_paginator(operation).paginate(Bucket="boto", Prefix="pages/", PaginationConfig={"PageSize": 7})
        assert sum(len(page["Contents"]) for page in pages) == 25
        pages = s3.get_paginator(operation).paginate(
            Bucket="boto", Prefix="pages/", Delimiter="/", PaginationConfig={"PageSize": 2}
        )
        prefixes = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
        assert prefixes == [f"pages/{number}/" for number in range(5)], prefixes
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["boto"]


def copies(s3):
    say("copies, also of an object in parts")
    s3.copy({"Bucket": "boto", "Key": f"files/{(16 << 20) + 3}"}, "boto", "copies/managed")
    assert s3.head_object(Bucket="boto", Key="copies/managed")["ContentLength"] == (16 << 20) + 3
    for key in KEYS[:5]:
        s3.copy_object(CopySource={"Bucket": "boto", "Key": "keys/" + key}, Bucket="boto", Key="copies/one")
        assert s3.get_object(Bucket="boto", Key="copies/one")["Body"].read() == key.encode()
    replace = {"Bucket": "boto", "Key": "meta", "CopySource": "boto/meta"}
    s3.copy_object(**replace, MetadataDirective="REPLACE", Metadata={"b": "2"})
    assert s3.head_object(Bucket="boto", Key="meta")["Metadata"] == {"b": "2"}
    refused("InvalidRequest", s3.copy_object, **replace)


def presigned(s3):
    say("presigned URLs")
    key = "presigned/a b+ü"
    url = s3.generate_presigned_url("put_object", Params={"Bucket": "boto", "Key": key}, ExpiresIn=60)
    # Not by urllib, which would add a Content-Type that nobody signed.
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc)
    connection.request("PUT", f"{address.path}?{address.query}", body=b"by URL")
    assert connection.getresponse().status == 200
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "boto", "Key": key}, ExpiresIn=60)
    assert urllib.request.urlopen(url).read() == b"by URL"
    try:
        urllib.request.urlopen(url.replace("presigned", "keys"))
        raise AssertionError("another key was given")
    except urllib.error.HTTPError as error:
        assert error.code == 403


def deletes(s3):
    say("delete_objects")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket="boto"):
        keys = [{"Key": item["Key"]} for item in page["Contents"]]
        answer = s3.delete_objects(Bucket="boto", Delete={"Objects": keys})
        assert len(answer["Deleted"]) == len(keys) and "Errors" not in answer
    assert s3.list_objects_v2(Bucket="boto")["KeyCount"] == 0
    s3.delete_bucket(Bucket="boto")


def main():
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        os.environ.pop(name, None)
    os.environ.update(AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull, AWS_EC2_METADATA_DISABLED="true")
    s3 = boto3.client("s3", region_name="us-east-1")
    s3.create_bucket(Bucket="boto")
    with tempfile.TemporaryDirectory() as work:
        files(s3, work)
    for step in (objects, lists, copies, presigned, deletes):
        step(s3)
    say("all of it worked")


if __name__ == "__main__":
    sys.exit(main())
