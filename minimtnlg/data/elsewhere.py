"""Files of other machines: fetched once, whole or not at all, and kept in the cache.

An address is http:// or https://, or cc: and a path in Common Crawl's store, as the lists of paths
that come with each crawl name it.
"""

import hashlib
import http.client
import shutil
import sys
import urllib.request

from minimtnlg.data.packages import cache_dir
from minimtnlg.errors import InputError
from minimtnlg.files import appearing, only_one

ADDRESSES = ("https://", "http://", "cc:")
COMMON_CRAWL = "https://data.commoncrawl.org/"
PATIENCE = 60  # seconds without a byte


def fetched(address):
    """The path of a file of that address in the cache; it keeps its name.

    An InputError if it can't be reached or is cut short.
    """
    url = COMMON_CRAWL + address.removeprefix("cc:") if address.startswith("cc:") else address
    folder = cache_dir() / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:16]
    path = folder / (url.partition("?")[0].rstrip("/").rpartition("/")[2] or "file")
    with only_one(cache_dir() / "locks" / f"{folder.name}.lock", path):
        if path.is_file():
            return path
        print(f"fetching {url}", file=sys.stderr)
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                expected = answer.headers.get("Content-Length")
                with appearing(path) as aside, open(aside, "wb") as f:
                    shutil.copyfileobj(answer, f, 1 << 20)
                    if expected is not None and f.tell() != int(expected):
                        raise InputError(
                            f"{url} ended after {f.tell():,} of {int(expected):,} bytes: try again"
                        )
        except InputError:
            raise
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"couldn't fetch {url} ({reason}); check the address and the network"
            ) from None
    return path
