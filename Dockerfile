# streamser serve: the dashboard and the WebSocket on port 8765, as a user without rights.
#   docker build -t streamser .            # or podman build --format docker: other formats have no health check
#   docker run --rm -p 127.0.0.1:8765:8765 streamser                # prints the address with its token
#   docker run --rm -p 127.0.0.1:8765:8765 -e STREAMSER_TOKEN=... --read-only streamser
FROM python:3.12-slim AS build
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
COPY --from=build /wheels /wheels
# The wheel's name holds its version, so that the shell has to find it; the extras bring the server and Wyoming.
RUN pip install --no-cache-dir "$(echo /wheels/streamser-*.whl)[serve,wyoming]" && rm -r /wheels \
    && useradd --create-home --uid 10001 streamser
USER 10001
WORKDIR /home/streamser
EXPOSE 8765
# Others than this machine need a token: "auto" makes one and prints it.
# hadolint ignore=DL3064
ENV STREAMSER_TOKEN=auto OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
STOPSIGNAL SIGTERM
# Ready, not only live: 503 while it drains and when its disk is full. Whatever restarts it asks /livez.
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8765/healthz', timeout=4)"]
ENTRYPOINT ["streamser"]
CMD ["serve", "--host", "0.0.0.0"]
