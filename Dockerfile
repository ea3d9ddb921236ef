# The service as an image. Build it from a checkout: docker build -t horizon .
#
# GPUs: run it with the NVIDIA container runtime (--gpus all); the driver's libraries come from the host.
FROM python:3.13-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN python -m venv /opt/horizon && /opt/horizon/bin/pip install --no-cache-dir .

FROM python:3.13-slim-bookworm
# A fixed id, so that a volume made by one version of the image belongs to the next one too.
RUN groupadd --gid 7420 horizon \
    && useradd --uid 7420 --gid horizon --create-home --shell /usr/sbin/nologin horizon \
    && install -d -o horizon -g horizon -m 0700 /var/lib/horizon
COPY --from=build /opt/horizon /opt/horizon
ENV PATH=/opt/horizon/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HORIZON_DATA_DIR=/var/lib/horizon
USER horizon
# Jobs start in the directory they name; one that names none starts here.
WORKDIR /home/horizon
VOLUME /var/lib/horizon
EXPOSE 7420
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7420/readyz', timeout=4)"]
ENTRYPOINT ["horizon"]
CMD ["serve", "--host", "0.0.0.0", "--port", "7420"]
