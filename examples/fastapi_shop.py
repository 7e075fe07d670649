"""A shop on FastAPI and SQLAlchemy: an order and its job are stored in one transaction.

pip install "meshhook-queue[sqlalchemy]" fastapi uvicorn
export MESHHOOK_DATABASE_URL=postgresql://user:password@host:5432/name
meshhook migrate
uvicorn fastapi_shop:web

curl -H 'content-type: application/json' -d '{"item": "book"}' http://127.0.0.1:8000/orders
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import meshhook

url = os.environ["MESHHOOK_DATABASE_URL"]
engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1))
sessions = async_sessionmaker(engine, expire_on_commit=False)
app = meshhook.App(url)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    is_shipped: Mapped[bool] = mapped_column(default=False)


class Shipment(BaseModel):
    order_id: int


class NewOrder(BaseModel):
    item: str


@app.job("shipments")
async def ship(shipment: Shipment) -> None:
    async with sessions.begin() as session:
        order = await session.get_one(Order, shipment.order_id)
        order.is_shipped = True
        print("shipping order", order.id, order.item)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with app.workers(concurrency=10):
        yield
    await engine.dispose()


web = FastAPI(lifespan=lifespan)


@web.post("/orders", status_code=201)
async def create_order(new: NewOrder) -> dict[str, int]:
    async with sessions.begin() as session:
        order = Order(item=new.item)
        session.add(order)
        await session.flush()  # the order gets its id
        await ship.enqueue(Shipment(order_id=order.id), connection=session)
        # If anything fails from here on, neither the order nor the job exists.
        if order.item == "nothing":
            raise HTTPException(422, "nothing cannot be ordered")
    return {"order": order.id}
