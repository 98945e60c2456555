"""Statistics of households, in ALFRED's type names: furniture of a room, places of objects, what can contain what.

Counted over one game of each of the 112 rooms behind ALFWorld's games: a table of facts, none of their code or text.
Left out: objects that can neither be taken nor lit, and rare ones.
"""

# fmt: off
from __future__ import annotations

from dataclasses import dataclass

LAMP = "DeskLamp"


@dataclass(frozen=True)
class Room:
    """Contents of a kind of room.

    ``receptacles``: type → (expected number, highest number). ``objects``: type → (expected number, places as
    "Receptacle:percent …").
    """

    receptacles: dict[str, tuple[float, int]]
    objects: dict[str, tuple[float, str]]

    def places(self, otype: str) -> dict[str, int]:
        """Receptacle types that hold an object of type ``otype`` in this room → how often, in percent."""
        pairs = (entry.split(":") for entry in self.objects[otype][1].split())
        return {rtype: int(weight) for rtype, weight in pairs}


def _types(names: str) -> frozenset[str]:
    return frozenset(names.split())


#: receptacle type → the object types that may be put there
CAN_CONTAIN: dict[str, frozenset[str]] = {
    "ArmChair": _types("Book Box CellPhone Cloth CreditCard KeyChain Laptop Newspaper Pillow RemoteControl"),
    "BathtubBasin": _types("Cloth DishSponge HandTowel SoapBar"),
    "Bed": _types("Book CellPhone Laptop Pillow"),
    "Cabinet": _types(
        "Book Bowl Box CD Candle Cloth Cup DishSponge Glassbottle HandTowel Kettle Ladle Mug Newspaper Pan "
        "PepperShaker Plate Pot SaltShaker SoapBar SoapBottle SprayBottle TissueBox ToiletPaper Vase "
        "WateringCan WineBottle"
    ),
    "Cart": _types("Candle Cloth DishSponge HandTowel SoapBar SoapBottle SprayBottle TissueBox ToiletPaper"),
    "CoffeeMachine": _types("Mug"),
    "CoffeeTable": _types(
        "Book Bowl Box Candle CellPhone CreditCard KeyChain Laptop Newspaper Pen Pencil Plate RemoteControl "
        "Statue TissueBox Vase Watch WateringCan"
    ),
    "CounterTop": _types(
        "AlarmClock Apple Book Bowl Bread ButterKnife CD Candle CellPhone Cloth CreditCard Cup DishSponge Egg "
        "Fork Glassbottle HandTowel Kettle KeyChain Knife Ladle Laptop Lettuce Mug Pan Pen Pencil PepperShaker "
        "Plate Pot Potato RemoteControl SaltShaker SoapBar SoapBottle Spatula Spoon SprayBottle Statue "
        "TissueBox ToiletPaper Tomato Vase WineBottle"
    ),
    "Desk": _types(
        "AlarmClock Book Bowl Box CD CellPhone Cloth CreditCard KeyChain Laptop Mug Pen Pencil RemoteControl "
        "Statue TissueBox Vase Watch WateringCan"
    ),
    "DiningTable": _types(
        "AlarmClock Apple Book Bowl Box Bread ButterKnife CD Candle CellPhone Cloth CreditCard Cup DishSponge "
        "Egg Fork Glassbottle Kettle KeyChain Knife Ladle Laptop Lettuce Mug Newspaper Pan Pen Pencil "
        "PepperShaker Plate Pot Potato RemoteControl SaltShaker SoapBottle Spatula Spoon SprayBottle Statue "
        "TissueBox Tomato Vase Watch WateringCan WineBottle"
    ),
    "Drawer": _types(
        "Book ButterKnife CD Candle CellPhone Cloth CreditCard DishSponge Fork HandTowel KeyChain Knife Ladle "
        "Newspaper Pen Pencil PepperShaker RemoteControl SaltShaker SoapBar SoapBottle Spatula Spoon "
        "SprayBottle TissueBox ToiletPaper Watch WateringCan"
    ),
    "Dresser": _types(
        "AlarmClock Book Bowl Box CD Candle CellPhone Cloth CreditCard KeyChain Laptop Mug Newspaper Pen Pencil "
        "Plate RemoteControl SprayBottle Statue TissueBox ToiletPaper Vase Watch WateringCan"
    ),
    "Fridge": _types("Apple Bowl Bread Cup Egg Glassbottle Lettuce Mug Pan Plate Pot Potato Tomato WineBottle"),
    "GarbageCan": _types(
        "Apple Bread CD Cloth DishSponge Egg HandTowel Lettuce Newspaper Pen Pencil Potato SoapBar SoapBottle "
        "SprayBottle TissueBox ToiletPaper Tomato WineBottle"
    ),
    "HandTowelHolder": _types("HandTowel"),
    "LaundryHamper": _types("Cloth"),
    "Microwave": _types("Apple Bowl Bread Cup Egg Glassbottle Mug Plate Potato Tomato"),
    "Ottoman": _types("Book Box CellPhone CreditCard KeyChain Laptop Newspaper Pillow RemoteControl"),
    "Safe": _types("CD CellPhone CreditCard KeyChain Statue Vase Watch"),
    "Shelf": _types(
        "AlarmClock Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup DishSponge Glassbottle HandTowel "
        "Kettle KeyChain Mug Newspaper Pen Pencil PepperShaker Plate Pot RemoteControl SaltShaker SoapBar "
        "SoapBottle SprayBottle Statue TissueBox ToiletPaper Vase Watch WateringCan WineBottle"
    ),
    "SideTable": _types(
        "AlarmClock Apple Book Bowl Box Bread ButterKnife CD Candle CellPhone Cloth CreditCard Cup DishSponge "
        "Egg Fork HandTowel Kettle KeyChain Knife Laptop Lettuce Mug Newspaper Pan Pen Pencil PepperShaker "
        "Plate Pot Potato RemoteControl SaltShaker SoapBar SoapBottle Spatula Spoon SprayBottle Statue "
        "TissueBox ToiletPaper Tomato Vase Watch WateringCan WineBottle"
    ),
    "SinkBasin": _types(
        "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Glassbottle HandTowel Kettle Knife Ladle Lettuce "
        "Mug Pan Plate Pot Potato SoapBar Spatula Spoon Tomato"
    ),
    "Sofa": _types("Book Box CellPhone CreditCard KeyChain Laptop Newspaper Pillow RemoteControl"),
    "StoveBurner": _types("Kettle Pan Pot"),
    "TVStand": _types("TissueBox"),
    "Toilet": _types("Candle Cloth DishSponge HandTowel SoapBar SoapBottle SprayBottle TissueBox ToiletPaper"),
    "ToiletPaperHanger": _types("ToiletPaper"),
    "TowelHolder": _types("Towel"),
}
CLEANABLE = _types(
    "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Kettle Knife Ladle Lettuce Mug Pan Plate Pot "
    "Potato SoapBar Spatula Spoon Tomato"
)
HEATABLE = _types(
    "Apple Bread Cup Egg Mug Plate Potato Tomato"
)
COOLABLE = _types(
    "Apple Bowl Bread Cup Egg Lettuce Mug Pan Plate Pot Potato Tomato WineBottle"
)
SLICEABLE = _types(
    "Apple Bread Egg Lettuce Potato Tomato"
)
#: always openable; of cabinets and drawers about six in seven are
OPENABLE = _types("Fridge Microwave Safe")
SOMETIMES_OPENABLE = _types("Cabinet Drawer")
#: where a finished object goes, by task kind
TARGETS: dict[str, frozenset[str]] = {
    "pick_and_place_simple": _types(
        "ArmChair Bed Cabinet Cart CoffeeTable CounterTop Desk DiningTable Drawer Dresser Fridge GarbageCan "
        "Microwave Ottoman Safe Shelf SideTable Sofa StoveBurner Toilet ToiletPaperHanger"
    ),
    "pick_clean_then_place_in_recep": _types(
        "Cabinet Cart CoffeeMachine CounterTop DiningTable Drawer Dresser Fridge GarbageCan Microwave Shelf "
        "SideTable StoveBurner Toilet"
    ),
    "pick_cool_then_place_in_recep": _types(
        "Cabinet CoffeeMachine CounterTop DiningTable GarbageCan Microwave Shelf SideTable StoveBurner"
    ),
    "pick_heat_then_place_in_recep": _types(
        "Cabinet CoffeeMachine CounterTop DiningTable Fridge GarbageCan Shelf SideTable"
    ),
    "pick_two_obj_and_place": _types(
        "ArmChair Bed Cabinet Cart CoffeeTable CounterTop Desk DiningTable Drawer Dresser Fridge GarbageCan "
        "Microwave Ottoman Safe Shelf SideTable Sofa Toilet"
    ),
}
ROOMS: dict[str, Room] = {
    "kitchen": Room(
        receptacles={
            "Cabinet": (13.7, 27), "CoffeeMachine": (1.0, 1), "CounterTop": (2.4, 4),
            "DiningTable": (0.7, 3), "Drawer": (5.8, 27), "Fridge": (1.0, 1), "GarbageCan": (1.0, 1),
            "Microwave": (1.0, 1), "Shelf": (0.5, 3), "SideTable": (0.1, 1), "SinkBasin": (1.0, 1),
            "StoveBurner": (4.1, 6), "Toaster": (1.0, 1),
        },
        objects={
            "Apple": (2.2, "CounterTop:34 Fridge:25 DiningTable:19 Microwave:14 SinkBasin:8"),
            "Bowl": (2.0, "Cabinet:40 Fridge:33 CounterTop:16 DiningTable:11"),
            "Bread": (1.6, "CounterTop:56 DiningTable:31 Fridge:13"),
            "ButterKnife": (1.7, "CounterTop:54 DiningTable:25 SinkBasin:10 Drawer:10"),
            "CellPhone": (0.3, "CounterTop:38 Drawer:25 DiningTable:25 Shelf:12"),
            "CreditCard": (0.2, "Drawer:50 CounterTop:33 Shelf:17"),
            "Cup": (2.0, "Fridge:25 CounterTop:21 DiningTable:21 Cabinet:16 Microwave:9 SinkBasin:9"),
            "DishSponge": (1.8, "CounterTop:29 Drawer:24 Cabinet:22 DiningTable:10 SinkBasin:8 GarbageCan:6"),
            "Egg": (1.7, "Fridge:40 CounterTop:29 SinkBasin:11 DiningTable:11 Microwave:9"),
            "Fork": (1.9, "CounterTop:46 Drawer:23 DiningTable:19 SinkBasin:12"),
            "Glassbottle": (0.5, "CounterTop:36 Cabinet:21 GarbageCan:14 DiningTable:14 Fridge:7 SinkBasin:7"),
            "Kettle": (0.6, "CounterTop:53 StoveBurner:24 Cabinet:18 DiningTable:6"),
            "Knife": (1.9, "CounterTop:56 DiningTable:23 Drawer:21"),
            "Ladle": (0.6, "CounterTop:59 Cabinet:29 Drawer:12"),
            "Lettuce": (2.0, "CounterTop:42 DiningTable:35 Fridge:15 SinkBasin:8"),
            "Mug": (1.5, "CounterTop:27 Fridge:21 CoffeeMachine:17 DiningTable:17 Cabinet:12 SinkBasin:6"),
            "Pan": (1.2, "StoveBurner:60 CounterTop:40"),
            "PaperTowelRoll": (0.4, "CounterTop:50 GarbageCan:20 DiningTable:20 SideTable:10"),
            "PepperShaker": (2.1, "CounterTop:36 Cabinet:34 DiningTable:12 Drawer:12 SideTable:5"),
            "Plate": (2.0, "Cabinet:54 DiningTable:22 CounterTop:17 Fridge:7"),
            "Pot": (1.5, "StoveBurner:77 CounterTop:17 DiningTable:6"),
            "Potato": (1.8, "CounterTop:42 Fridge:24 DiningTable:18 Microwave:16"),
            "SaltShaker": (1.9, "CounterTop:38 Cabinet:23 DiningTable:21 Drawer:13 Shelf:6"),
            "SoapBottle": (2.0, "CounterTop:38 DiningTable:26 Cabinet:26 GarbageCan:9"),
            "Spatula": (1.8, "CounterTop:58 DiningTable:22 Drawer:12 SinkBasin:8"),
            "Spoon": (1.7, "CounterTop:47 Drawer:28 DiningTable:17 SinkBasin:9"),
            "Statue": (0.2, "CounterTop:67 Shelf:33"),
            "Tomato": (1.9, "Fridge:45 CounterTop:43 GarbageCan:12"),
            "Vase": (0.4, "Shelf:50 CounterTop:40 Cabinet:10"),
            "WineBottle": (0.8, "CounterTop:43 Cabinet:29 DiningTable:19 Fridge:10"),
        },
    ),
    "bedroom": Room(
        receptacles={
            "ArmChair": (0.3, 3), "Bed": (1.1, 2), "Cabinet": (0.4, 4), "Desk": (0.8, 2),
            "DiningTable": (0.1, 1), "Drawer": (5.9, 17), "Dresser": (0.5, 2), "GarbageCan": (1.0, 1),
            "LaundryHamper": (0.3, 1), "Safe": (0.2, 1), "Shelf": (3.2, 14), "SideTable": (0.9, 2),
        },
        objects={
            "AlarmClock": (1.6, "Desk:33 Dresser:22 Shelf:22 SideTable:16 DiningTable:7"),
            "Book": (2.0, "Bed:44 Desk:26 Drawer:11 SideTable:7 Dresser:6 DiningTable:6"),
            "Bowl": (0.7, "Shelf:58 Desk:26 Dresser:11 DiningTable:5"),
            "CD": (1.9, "Drawer:43 Dresser:20 Desk:18 Shelf:10 DiningTable:8"),
            "CellPhone": (2.2, "Bed:39 Drawer:20 Desk:15 SideTable:11 Shelf:8 Dresser:7"),
            "CreditCard": (1.9, "SideTable:30 Drawer:24 Desk:18 Dresser:16 Shelf:12"),
            "DeskLamp": (0.7, "Desk:38 Dresser:24 SideTable:24 Shelf:14"),
            "KeyChain": (2.1, "Drawer:25 SideTable:20 Desk:19 Shelf:17 Dresser:14 DiningTable:5"),
            "Laptop": (1.7, "Bed:80 Desk:20"),
            "Mug": (1.0, "Desk:42 Shelf:27 Dresser:19 SideTable:12"),
            "Pen": (2.3, "Desk:24 Dresser:21 Shelf:19 Drawer:16 SideTable:13 DiningTable:8"),
            "Pencil": (2.1, "Desk:25 Drawer:21 SideTable:21 GarbageCan:12 Shelf:11 Dresser:5 DiningTable:5"),
            "Pillow": (1.8, "Bed:100"),
            "RemoteControl": (0.2, "Drawer:40 Desk:20 SideTable:20 DiningTable:20"),
            "Statue": (0.2, "Shelf:60 Dresser:40"),
            "TeddyBear": (0.2, "Bed:100"),
            "TissueBox": (0.3, "Desk:50 Drawer:25 Dresser:12 DiningTable:12"),
        },
    ),
    "bathroom": Room(
        receptacles={
            "BathtubBasin": (0.7, 1), "Cabinet": (2.1, 9), "CounterTop": (1.0, 2), "Drawer": (2.4, 8),
            "GarbageCan": (1.0, 1), "HandTowelHolder": (1.5, 4), "Shelf": (0.5, 4), "SinkBasin": (1.5, 2),
            "Toilet": (1.0, 1), "ToiletPaperHanger": (1.0, 1), "TowelHolder": (1.3, 2),
        },
        objects={
            "Candle": (2.0, "CounterTop:34 Toilet:30 Cabinet:17 Drawer:11 Shelf:8"),
            "Cloth": (1.9, "Cabinet:27 BathtubBasin:24 CounterTop:18 Drawer:14 SinkBasin:10 Shelf:8"),
            "DishSponge": (0.3, "SinkBasin:38 Toilet:25 BathtubBasin:12 Cabinet:12 CounterTop:12"),
            "HandTowel": (1.1, "HandTowelHolder:100"),
            "SoapBar": (2.1, "CounterTop:26 Cabinet:18 Toilet:18 Shelf:11 SinkBasin:9 BathtubBasin:9 GarbageCan:5"),
            "SoapBottle": (1.9, "CounterTop:35 Toilet:23 Cabinet:19 GarbageCan:10 Shelf:8 Drawer:6"),
            "SprayBottle": (2.1, "CounterTop:37 Toilet:33 Cabinet:16 GarbageCan:8 Shelf:6"),
            "TissueBox": (0.3, "Drawer:38 Shelf:25 CounterTop:12 Toilet:12 Cabinet:12"),
            "ToiletPaper": (2.1, "CounterTop:28 Toilet:26 Cabinet:13 ToiletPaperHanger:13 GarbageCan:11 Shelf:9"),
            "Towel": (1.2, "TowelHolder:100"),
        },
    ),
    "livingroom": Room(
        receptacles={
            "ArmChair": (1.3, 3), "Cabinet": (0.6, 8), "CoffeeTable": (1.0, 2), "DiningTable": (0.6, 2),
            "Drawer": (4.0, 21), "Dresser": (0.4, 2), "GarbageCan": (1.0, 1), "Ottoman": (0.1, 1),
            "Shelf": (2.7, 14), "SideTable": (1.5, 5), "Sofa": (1.2, 2), "TVStand": (0.5, 2),
        },
        objects={
            "Book": (0.4, "CoffeeTable:36 Dresser:27 DiningTable:18 ArmChair:9 Sofa:9"),
            "Bowl": (0.1, "CoffeeTable:75 Shelf:25"),
            "Box": (1.1, "DiningTable:21 Sofa:21 CoffeeTable:18 Dresser:14 SideTable:11 ArmChair:7 Shelf:7"),
            "Candle": (0.2, "DiningTable:43 CoffeeTable:43 Drawer:14"),
            "CellPhone": (0.4, "Dresser:30 CoffeeTable:20 ArmChair:20 SideTable:10 TVStand:10 Shelf:10"),
            "CreditCard": (2.4, "Sofa:24 ArmChair:21 SideTable:14 DiningTable:14 Drawer:10 Dresser:10 CoffeeTable:7"),
            "DeskLamp": (0.2, "SideTable:83 CoffeeTable:17"),
            "KeyChain": (1.5, "CoffeeTable:26 DiningTable:13 Drawer:11 Sofa:11 SideTable:11 TVStand:11 Shelf:11"),
            "Laptop": (1.5, "CoffeeTable:26 DiningTable:21 Sofa:21 Dresser:13 TVStand:11 ArmChair:8"),
            "Newspaper": (1.3, "CoffeeTable:19 Sofa:17 SideTable:17 DiningTable:14 Dresser:11 Shelf:8 ArmChair:8"),
            "Pen": (0.3, "CoffeeTable:44 Dresser:11 TVStand:11 Drawer:11 SideTable:11 DiningTable:11"),
            "Pencil": (0.2, "CoffeeTable:29 SideTable:29 Drawer:14 Shelf:14 TVStand:14"),
            "Pillow": (1.1, "Sofa:78 ArmChair:22"),
            "Plate": (0.6, "DiningTable:56 CoffeeTable:25 Shelf:12 SideTable:6"),
            "RemoteControl": (2.0, "CoffeeTable:28 Sofa:19 Dresser:15 TVStand:13 SideTable:9 ArmChair:8 DiningTable:8"),
            "Statue": (2.1, "CoffeeTable:30 SideTable:23 Shelf:21 DiningTable:18 TVStand:9"),
            "TissueBox": (0.5, "DiningTable:33 Shelf:27 SideTable:13 CoffeeTable:13 TVStand:7 Drawer:7"),
            "Vase": (1.5, "Shelf:41 CoffeeTable:18 DiningTable:15 Dresser:10 SideTable:8 TVStand:8"),
            "Watch": (1.1, "SideTable:30 CoffeeTable:30 Drawer:20 DiningTable:13 Shelf:7"),
        },
    ),
}
