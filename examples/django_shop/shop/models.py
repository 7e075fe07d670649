from django.db import models


class Order(models.Model):
    item = models.CharField(max_length=100)
    is_shipped = models.BooleanField(default=False)

    def __str__(self) -> str:
        return f"order {self.pk}: {self.item}"
