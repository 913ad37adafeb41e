"""The page: `eclip serve`, a door to the library for people who look rather than read, and an API beside it.

A request passes these files in order; nothing is computed outside the library's public functions.

    settings    what is served, where, and within which limits
    guard       who may ask at all: host, origin, token, size of the request; headers of every answer
    counts      requests, seconds, queue and memory, for /metrics
    api         the addresses under /api/v1; `schemas` says what they accept, `uploads` checks files before decoding
    worker      one thread that holds the models; fair to several users, bounded, stops what nobody waits for
    engine      encodes images once and asks the library; `answers` turns results into JSON, `arrays` packs maps
    store       images in memory, by an id; forgotten when the memory is full or after a while
    gallery     the images in examples/, or a folder to look at
    repeat      the command and the lines of Python that repeat an answer; `exports` writes it to files
    refusals    every answer that is not 200, in one shape
    app         all of it as one ASGI application; `serve` runs it
    static/     the page: plain HTML, CSS and JavaScript modules without a build step
"""
