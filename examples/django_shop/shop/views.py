from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from shop.jobs import Shipment, shipments
from shop.models import Order


@csrf_exempt
@transaction.atomic
def create_order(request: HttpRequest) -> JsonResponse:
    order = Order.objects.create(item=request.POST["item"])
    shipments.enqueue(Shipment(order_id=order.pk))
    # If anything fails from here on, neither the order nor the job exists.
    if order.item == "nothing":
        raise ValueError("nothing cannot be ordered")
    return JsonResponse({"order": order.pk}, status=201)
