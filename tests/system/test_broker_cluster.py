"""Three nodes of RabbitMQ: what is confirmed outlives each of them, over the list of RABBITMQ_HOST."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pika.spec import Basic, BasicProperties

from blackbird.broker.session import Session, SessionLost, connection_parameters, session_opener
from blackbird.broker.topology import EXCHANGE, PERSISTENT, STORAGE
from config import Config, hosts_and_ports
from tests.support.broker_cluster import BrokerCluster
from tests.support.workspace import make_virtual_host

pytestmark = pytest.mark.slow

VHOST = "clustered"
MESSAGES = 100


@pytest.fixture
def cluster() -> Iterator[BrokerCluster]:
    with BrokerCluster(Config.RABBITMQ_RELEASE) as started:
        make_virtual_host(started.nodes[0].management, VHOST)
        yield started


class Client:
    """Opens sessions as a service does that has the cluster in RABBITMQ_HOST."""

    def __init__(self, cluster: BrokerCluster) -> None:
        (host, port), *more = hosts_and_ports(cluster.hosts, 0)
        where = {"host": host, "port": port, "more_hosts": more, "virtual_host": VHOST}
        self._open = session_opener(connection_parameters(**{**Config.BROKER_CONFIG, **where}))

    async def session(self) -> Session:
        """Return a session with `storage` declared, at the first node that has one."""
        async with asyncio.timeout(180):
            while True:
                try:
                    session = await self._open()
                    await session.declare_exchange()
                    await session.declare_queue(STORAGE)
                    await session.bind(STORAGE, STORAGE)
                except SessionLost:
                    await asyncio.sleep(0.1)
                else:
                    return session

    async def publish(self, first: int) -> None:
        """Publish MESSAGES numbers from `first`, and return when the broker has confirmed them."""
        session = await self.session()
        unconfirmed = set(range(1, MESSAGES + 1))
        done = asyncio.Event()

        def confirm(frame: Any) -> None:
            assert isinstance(frame.method, Basic.Ack)
            tag = frame.method.delivery_tag
            unconfirmed.difference_update(range(1, tag + 1) if frame.method.multiple else [tag])
            if not unconfirmed:
                done.set()

        await session.confirm_publishes(confirm)
        for number in range(first, first + MESSAGES):
            session.publish(EXCHANGE, STORAGE, b"%d" % number, BasicProperties(delivery_mode=PERSISTENT))
        await asyncio.wait_for(done.wait(), 180)
        await session.closed()

    async def take_all(self) -> list[int]:
        """Take what waits in `storage`."""
        session = await self.session()
        taken = []
        while message := await session.get(STORAGE):
            tag, _, body = message
            session.acknowledge(tag)
            taken.append(int(body))
        await session.closed()
        return taken


def test_what_was_confirmed_outlives_the_death_of_each_leader(cluster: BrokerCluster) -> None:
    client = Client(cluster)
    for kill in range(len(cluster.nodes)):
        asyncio.run(client.publish(kill * MESSAGES))
        leader = cluster.leader_of(VHOST, STORAGE)
        leader.kill()
        # Only two of three are left, which goes on.
        asyncio.run(client.publish((kill + 10) * MESSAGES))
        leader.start()
        cluster.await_formed()
    rounds = [*range(len(cluster.nodes)), *range(10, 10 + len(cluster.nodes))]
    expected = [each * MESSAGES + number for each in rounds for number in range(MESSAGES)]
    assert sorted(asyncio.run(client.take_all())) == expected
