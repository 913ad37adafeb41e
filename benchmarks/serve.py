"""How fast `eclip serve` answers, alone and under load, and how long a frame of the page takes.

    python benchmarks/serve.py --out benchmarks/serve-cpu.json                 about three minutes
    python benchmarks/serve.py --clients 100 --seconds 60 --no-page            the load alone

It starts a server of its own with `mini`, sends words that were not asked before, then lets many clients ask at once,
and watches the server's memory. Frames are read from Chromium's own trace; they need playwright and Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from eclip.texts.vocabulary import words_of

API = "/api/v1/"


def started(args: argparse.Namespace) -> tuple[subprocess.Popen[str], str, float]:
    """The server, its address, and the seconds until it answered."""
    begin = time.perf_counter()
    words = [sys.executable, "-m", "eclip", "serve", "--port", "0", "--no-open", "--models", args.model]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().split()[-1].rstrip("/"), time.perf_counter() - begin


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and 95th percentile in milliseconds."""
    each = sorted(1000 * one for one in seconds)
    p95 = each[min(len(each) - 1, round(0.95 * len(each)))]
    return {"count": len(each), "p50_ms": round(statistics.median(each), 1), "p95_ms": round(p95, 1)}


def alone(address: str, count: int) -> dict[str, Any]:
    """A first image, then new words on it, one at a time."""
    words = words_of(None)
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
        begin = time.perf_counter()
        image = client.post(f"{API}images", files=[("files", ("a.jpg", photo(0)))]).json()["images"][0]["id"]
        client.get(f"{API}images/{image}").raise_for_status()
        client.post(f"{API}explain", json={"images": [image], "texts": ["a dog"]}).raise_for_status()
        first = time.perf_counter() - begin
        taken = []
        for word in words[:count]:
            begin = time.perf_counter()
            client.post(f"{API}explain", json={"images": [image], "texts": [f"a {word}"]}).raise_for_status()
            taken.append(time.perf_counter() - begin)
    return {"first_image_s": round(first, 3), "new_word": spread(taken)}


def photo(seed: int) -> bytes:
    """A JPEG of 640 x 480 pixels with noise, so that every client has another image."""
    import numpy as np

    small = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


async def crowd(address: str, clients: int, seconds: float) -> tuple[Counter[int], list[float], list[str]]:
    """Clients that each upload an image and ask about it, without a pause."""
    words, statuses, taken, broken = words_of(None), Counter[int](), list[float](), list[str]()
    until = time.perf_counter() + seconds
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=150, limits=limits, trust_env=False) as client:

        async def one(number: int) -> None:
            own, asked = {"X-Eclip-Client": str(number)}, 0
            image = None
            while time.perf_counter() < until:
                begin = time.perf_counter()
                try:
                    if image is None:
                        files = [("files", ("a.jpg", photo(number)))]
                        answer = await client.post(f"{API}images", files=files, headers=own)
                        image = answer.json()["images"][0]["id"] if answer.status_code == 200 else None
                    else:
                        word = words[(97 * number + asked) % len(words)]
                        body = {"images": [image], "texts": [f"a {word}"]}
                        answer = await client.post(f"{API}explain", json=body, headers=own)
                        asked += 1
                        if answer.status_code == 200:
                            taken.append(time.perf_counter() - begin)
                    statuses[answer.status_code] += 1
                    if answer.status_code == 503:
                        await asyncio.sleep(float(answer.headers["retry-after"]))
                    elif answer.status_code != 200:
                        broken.append(answer.text[:200])
                        image = None
                except httpx.HTTPError as error:
                    broken.append(repr(error))

        await asyncio.gather(*(one(number) for number in range(clients)))
    return statuses, taken, broken


def resident(process: int) -> int:
    """MiB of memory of a process."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) >> 10


def loaded(process: int, address: str, clients: int, seconds: float) -> dict[str, Any]:
    """Many clients at once, and the memory of the server meanwhile."""
    memory, stop = [resident(process)], threading.Event()

    def watch() -> None:
        while not stop.wait(2):
            memory.append(resident(process))

    thread = threading.Thread(target=watch)
    thread.start()
    statuses, taken, broken = asyncio.run(crowd(address, clients, seconds))
    stop.set()
    thread.join()
    told = {"clients": clients, "seconds": seconds, "statuses": dict(sorted(statuses.items())), "broken": broken[:5]}
    return {**told, "answers": spread(taken) if taken else None, "memory_mib": memory}


def frames(address: str) -> dict[str, Any] | None:
    """Milliseconds of script in each frame while sliders move and the pointer crosses words and patches."""
    chromium = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if chromium is None:
        return None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address)
        page.wait_for_selector("body.ready")
        page.click("#gallery button >> nth=0")
        page.wait_for_function("() => document.querySelector('#chips .score')?.textContent.includes('0.')")
        page.fill("#text", "a man standing next to an elephant")
        page.press("#text", "Enter")
        page.wait_for_function("() => document.querySelectorAll('#chips .score')[3]?.textContent.includes('0.')")
        found = {}
        for name in ("threshold", "alpha"):
            browser.start_tracing(page=page, categories=["devtools.timeline"])
            page.evaluate(
                """name => new Promise(done => {
                  const slider = document.getElementById(name); let step = 0
                  const next = () => { if (step++ > 100) return done()
                    slider.value = step / 100; slider.dispatchEvent(new Event('input')); requestAnimationFrame(next) }
                  next() })""",
                name,
            )
            found[name] = scripts(browser.stop_tracing())
        page.click("#tab-words")
        page.wait_for_selector("#sentence", timeout=60_000)
        browser.start_tracing(page=page, categories=["devtools.timeline"])
        box = page.locator("#canvas").bounding_box()
        for step in range(60):
            page.mouse.move(box["x"] + box["width"] * step / 60, box["y"] + box["height"] * step / 60)
        for word in page.locator("#sentence button").all() * 3:
            word.hover()
        found["hover"] = scripts(browser.stop_tracing())
        browser.close()
    return found


def scripts(trace: bytes) -> dict[str, float]:
    """The time of the page's own work in each animation frame of a trace."""
    events = json.loads(trace)["traceEvents"]
    each = sorted(one["dur"] / 1000 for one in events if one["name"] == "FireAnimationFrame" and "dur" in one)
    return {
        "frames": len(each),
        "median_ms": round(statistics.median(each), 2),
        "p95_ms": round(each[round(0.95 * (len(each) - 1))], 2),
        "most_ms": round(each[-1], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--words", type=int, default=100)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--page", action=argparse.BooleanOptionalAction, default=True, help="also frames in Chromium")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    process, address, seconds = started(args)
    try:
        found: dict[str, Any] = {"model": args.model, "start_s": round(seconds, 2), **alone(address, args.words)}
        if args.page:
            found["frames"] = frames(address)
        found["load"] = loaded(process.pid, address, args.clients, args.seconds)
    finally:
        process.terminate()
        process.wait(20)
    text = json.dumps(found, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
