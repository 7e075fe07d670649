"""What is done later, and by whom."""

from django.db import connection
from pydantic import BaseModel

import meshhook
from shop.models import Order


class Shipment(BaseModel):
    order_id: int


app = meshhook.App()
shipments = meshhook.SyncQueueService(connection, "shipments", payload_model=Shipment)


@app.job("shipments")
def ship(shipment: Shipment) -> None:
    order = Order.objects.get(pk=shipment.order_id)
    order.is_shipped = True
    order.save()
    print("shipped", order, flush=True)
